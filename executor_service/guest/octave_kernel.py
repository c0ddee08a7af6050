"""octave_kernel as this service needs it: lines as Octave wrote them, and errors told as errors.

A program of its own, run as user code by an image's interpreter: `python octave_kernel.py -f FILE`.
octave_kernel reads a terminal, which ends each line with a carriage return; and all that it tells of an error
or an interrupt is what Octave printed.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from typing import Any

KEPT = 4096  # characters at the end of the output in which an error is looked for
FAILED = re.compile(r"^error: (?!called from)(.*)\n(?:error: called from\n(?: .*\n)*)?\s*\Z", re.MULTILINE)


def main() -> None:
    """Until the kernel ends."""
    sys.path.pop(0)  # modules of ours are not the kernel's
    module: Any = import_module("octave_kernel.kernel")
    kernel_class = module.OctaveKernel
    send, execute, interrupt = (
        kernel_class.send_response,
        kernel_class.do_execute,
        module.OctaveEngine._interrupt,
    )

    def send_response(
        kernel: Any, stream: Any, kind: str, content: Any = None, *rest: Any, **more: Any
    ) -> Any:
        if kind == "stream" and content:
            text = (kernel.held + content["text"]).replace("\r\n", "\n")
            kernel.held = "\r" if text.endswith("\r") else ""  # the rest of the line's end may follow
            content = {**content, "text": text.removesuffix("\r")}
            kernel.said = (kernel.said + content["text"])[-KEPT:]
            if not content["text"]:
                return None
        return send(kernel, stream, kind, content, *rest, **more)

    async def do_execute(kernel: Any, *args: Any, **more: Any) -> Any:
        kernel.said, kernel_class.interrupted = "", False
        reply = await execute(kernel, *args, **more)
        error: dict[str, Any] = {"ename": "KeyboardInterrupt", "evalue": "", "traceback": []}
        if not kernel_class.interrupted:
            failed = FAILED.search(kernel.said)
            if failed is None or reply.get("status") == "error":
                return reply
            error |= {"ename": "error", "evalue": failed[1]}
        kernel.send_response(kernel.iopub_socket, "error", error)
        return {**reply, "status": "error", **error}

    def _interrupt(*args: Any, **more: Any) -> Any:
        kernel_class.interrupted = True
        return interrupt(*args, **more)

    kernel_class.held = kernel_class.said = ""
    kernel_class.send_response, kernel_class.do_execute = send_response, do_execute
    module.OctaveEngine._interrupt = _interrupt
    kernel_class.run_as_main()


if __name__ == "__main__":
    main()

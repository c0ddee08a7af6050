"""ILua as this service needs it: code waits for its Lua, can be interrupted, and ends after its output.

A program of its own, run as user code by an image's interpreter: `python ilua_kernel.py -c CONNECTION_FILE`.
ILua answers before its Lua is there, and executing then ends it; it ignores interrupts; and it may tell of an
end before it has read what was printed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from importlib import import_module
from typing import Any

SETTLE = 0.01  # seconds in which output that was written before the end is read


def main() -> None:
    """Never returns."""
    sys.path.pop(0)  # modules of ours are not the kernel's
    kernel_class: Any = import_module("ilua.kernel").ILuaKernel
    output_class: Any = import_module("ilua.proto").OutputCapture
    defer: Any = import_module("twisted.internet.defer")
    execute = kernel_class.do_execute

    @defer.inlineCallbacks  # type: ignore[untyped-decorator]
    def do_execute(kernel: Any, *args: Any, **more: Any) -> Generator[Any, Any, Any]:
        parent = kernel.executing = kernel.curr_parent
        try:
            while not hasattr(kernel, "proto"):
                yield _pause(kernel.reactor)
            kernel.curr_parent = parent
            result = yield execute(kernel, *args, **more)
            yield _pause(kernel.reactor)
            return result
        finally:
            kernel.executing = None

    def do_interrupt(kernel: Any) -> None:
        if kernel.executing is not None:
            kernel.curr_parent = kernel.executing  # what follows is that execution's still
            kernel.lua_process.signalProcess("INT")

    def _pause(reactor: Any) -> Any:
        over = defer.Deferred()
        reactor.callLater(SETTLE, over.callback, None)
        return over

    # A second interrupt, or os.exit, ends Lua: a kernel without it is dead, and says so by its end.
    def process_ended(_: Any, reason: Any) -> None:
        os._exit(1 if reason.value.exitCode is None else reason.value.exitCode)

    kernel_class.executing = None
    kernel_class.do_execute, kernel_class.do_interrupt = do_execute, do_interrupt
    output_class.processEnded = process_ended
    import_module("ilua.app").main()


if __name__ == "__main__":
    main()

"""How a Python kernel starts in a fork of the kernel zygote: imports before, sockets after.

`preload` is called once in the zygote, `run_kernel` in each forked child, when its isolation is
complete. Not here: how the kernel differs from plain ipykernel (`ipython_kernel`).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from types import ModuleType

# Never preloaded: debuggers start threads and take half of the time, and the inline backend hooks
# itself into the shell while it is imported.
_UNWANTED = frozenset(
    {"debugpy", "_pydevd_bundle", "_pydev_bundle", "pydevd", "matplotlib_inline", "__main__"}
)
_FIRST_CELL = """
import asyncio, warnings
print(1)
from IPython.display import display, HTML
display(HTML("<b>1</b>"))
try:
    await asyncio.sleep(0)
finally:
    1 / 0
"""


def preload() -> None:
    """Import all that a first kernel imports. Leaves one thread and no ZMQ context.

    Which modules those are is learned from a throwaway kernel in a fork, so that nothing but
    imports happens here, whatever the versions.

    Raises:
        ImportError: ipykernel is not there.
    """
    _import_kernel()
    for name in _learn():
        if name not in sys.modules:
            _import_quietly(name)
    if threading.active_count() != 1:
        raise RuntimeError(f"preloading left threads: {threading.enumerate()}")


def run_kernel(directory: str, listening: Callable[[], None] | None = None) -> None:
    """Be a kernel with its sockets in `directory` until it ends. For a fork that ends afterwards.

    The sockets are `shell`, `iopub`, `stdin` and `control`, open to every uid; once they are there
    `listening` is called.

    Raises:
        SystemExit: the kernel could not start; the reason is on the original descriptor 2.
    """
    errors = os.dup(2)
    try:
        app = _import_kernel().make_app(f"{directory}/")
    except BaseException as error:  # ipykernel may have replaced sys.stderr by then
        os.write(errors, "".join(traceback.format_exception(error, limit=-20)).encode(errors="replace"))
        raise SystemExit(1) from error
    os.close(errors)
    if listening is not None:
        listening()
    app.start()


def _import_kernel() -> ModuleType:
    """`ipython_kernel`, imported as if debugpy were not installed."""
    blocked = "debugpy" not in sys.modules
    if blocked:
        sys.modules["debugpy"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("ipykernel.debugger")
        return importlib.import_module("executor_service.guest.ipython_kernel")
    finally:
        if blocked:
            del sys.modules["debugpy"]


def _learn() -> list[str]:
    """Names of the modules that a throwaway kernel imports by the end of its first cell."""
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_fd)
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            names = [n for n in _try_kernel() if n.partition(".")[0] not in _UNWANTED]
            with open(write_fd, "w") as out:
                json.dump(names, out)
        finally:
            os._exit(0)
    os.close(write_fd)
    with open(read_fd) as source:
        text = source.read()
    os.waitpid(child, 0)
    return list(json.loads(text)) if text else []


def _try_kernel() -> list[str]:
    """Start a kernel on abstract sockets and run a cell; what was imported meanwhile, in order."""
    before = set(sys.modules)
    app = _import_kernel().make_app(f"@codecell-preload-{os.getpid()}-")
    app.kernel.start()
    app.kernel.io_loop.run_sync(lambda: app.kernel.do_execute(_FIRST_CELL, False))
    return [name for name in sys.modules if name not in before]


def _import_quietly(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception:  # a module that only works half-way through something else: the kernel's affair
        sys.modules.pop(name, None)

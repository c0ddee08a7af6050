"""The end of a program in a fork: everything a program can see of it, without tearing down the zygote.

A real finalisation runs exit functions, joins threads, flushes, collects, clears the modules (and so runs
``__del__``), and only then takes the interpreter itself apart: every interned string, type and code object.
In a fork that last part copies most of the zygote's pages (12-40 ms) for nothing that anybody could see.
So CPython finalises as always up to that point; there a guard object, the last to go, ends the process with
the exit code that CPython was about to use, when that is known for certain. When it is not, nothing is
skipped. C's own exit handlers run in any case.

The exit code is known if the main file ran to its end, or ended by an exception that left its first frame,
or by SystemExit (whose `code` the interpreter reads when no frame is left).
"""

from __future__ import annotations

import atexit
import builtins
import ctypes
import gc
import io
import sys
from collections.abc import Callable
from typing import Any

_c = ctypes.PyDLL(None)
_c.exit.argtypes = (ctypes.c_int,)
_c.exit.restype = None


class Leaving:
    """Made in the zygote; acts in each program. `withdraw` takes what is never freed out of ``sys.modules``."""

    def __init__(self, withdraw: Callable[[], None]) -> None:
        self._withdraw = withdraw
        self._requested: Any = self  # SystemExit's code; `self` means none
        self.status: int | None = None

    def install(self) -> None:
        """Before anything else registers an exit function: the first registered runs last."""
        atexit.register(self._last_exit_function)
        _replace_slot(SystemExit, "code", _Code(SystemExit.__dict__["code"], self._requests_exit))
        # `builtins` is cleared last of all modules. An interpreter without `site` has no such object.
        printer = getattr(builtins, "copyright", None)
        if printer is not None:
            vars(printer)["_Printer__guard"] = _Guard(self)

    def _requests_exit(self, code: Any) -> None:
        self._requested = code

    def _last_exit_function(self) -> None:
        self.status = self._exit_code() if _flushed() else None
        self._withdraw()

    def _exit_code(self) -> int | None:
        if self._requested is not self:
            return _status(self._requested)
        names = vars(sys.modules["__main__"])
        if "__file__" in names or "__cached__" in names:
            return None  # CPython removes them when the file has ended, but SystemExit comes before that
        if not hasattr(sys, "last_value"):
            return 0
        return 1 if _left_main(sys.last_value, getattr(sys, "last_traceback", None), names) else None


def _status(code: Any) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return int(code) & 0xFF if -(1 << 63) <= code < 1 << 63 else 0xFF
    return 1


def _left_main(error: Any, traceback: Any, names: dict[str, Any]) -> bool:
    """Whether this error, printed by somebody, is the one that ended the main file: its frame stopped there."""
    if isinstance(error, KeyboardInterrupt) or traceback is None:
        return False
    frame = traceback.tb_frame
    return (
        frame.f_back is None
        and frame.f_globals is names
        and frame.f_code.co_name == "<module>"
        and frame.f_lasti == traceback.tb_lasti
    )


def _flushed() -> bool:
    """Whether nothing is left to write that could still fail, and with it change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        if type(stream) is not io.TextIOWrapper:
            return False
        try:
            if not stream.closed:
                stream.flush()
        except Exception:
            return False
    return True


class _Guard:
    """Ends the process when it is destroyed by finalisation."""

    __slots__ = ("_leaving",)

    def __init__(self, leaving: Leaving) -> None:
        self._leaving = leaving

    # Defaults, because names of modules are gone by then.
    def __del__(self, finalizing: Any = sys.is_finalizing, leave: Any = _c.exit) -> None:
        status = self._leaving.status
        if status is not None and finalizing():
            leave(status)


class _Code:
    """In place of ``SystemExit.code``; tells when it is read by the interpreter itself, below all frames."""

    def __init__(self, member: Any, tell: Callable[[Any], None]) -> None:
        self._member = member
        self._tell = tell
        self.__doc__ = member.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self._member
        code = self._member.__get__(instance)
        try:
            sys._getframe(1)
        except ValueError:
            self._tell(code)
        return code

    def __set__(self, instance: Any, value: Any) -> None:
        self._member.__set__(instance, value)

    def __delete__(self, instance: Any) -> None:
        self._member.__delete__(instance)


def _replace_slot(owner: type, name: str, descriptor: Any) -> None:
    """Set an attribute of a built-in type, which Python itself does not let one do."""
    names = gc.get_referents(owner.__dict__)[0]
    assert isinstance(names, dict)
    names[name] = descriptor
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(owner))

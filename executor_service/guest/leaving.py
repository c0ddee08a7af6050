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
import ctypes
import gc
import io
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

_c = ctypes.PyDLL(None)
_c.exit.argtypes = _c._exit.argtypes = (ctypes.c_int,)
_c.fflush.argtypes = (ctypes.c_void_p,)


class Leaving:
    """Made in the zygote, acts in each program. `withdraw` takes what is never freed out of sight."""

    def __init__(self, withdraw: Callable[[], None]) -> None:
        self._requested: Any = self  # SystemExit's code; `self` means none
        self._status: int | None = None
        self._libraries = _Libraries()
        self._withdraw = withdraw
        self._outputs: tuple[Any, ...] = ()

    def install(self) -> None:
        """Before anything else registers an exit function: the first registered runs last."""
        atexit.register(self._last_exit_function)
        _replace_slot(SystemExit, "code", _Code(SystemExit.__dict__["code"], self._requests_exit))
        # `finalize_modules` begins by dropping this function, after exit functions and garbage collection.
        hook = getattr(sys, "__interactivehook__", None)
        if isinstance(hook, FunctionType):
            again = FunctionType(
                hook.__code__, hook.__globals__, hook.__name__, hook.__defaults__, hook.__closure__
            )
            vars(again)["__guard"] = _Guard(self._withdraw)
            sys.__interactivehook__ = again

    def guard(self, stdin: Any, *outputs: Any) -> None:
        """The streams belong to `sys` alone, which is cleared when all other modules are."""
        vars(stdin)["__guard"] = _Guard(self._leave)
        self._outputs = outputs

    def _leave(self) -> None:
        """End the process, if the exit code is known. Libraries that the program loaded get their say."""
        if self._status is None:
            return
        for output in self._outputs:
            try:
                output.flush()  # what ``__del__`` wrote; CPython ignores errors here too
            except Exception:  # noqa: S110
                pass
        if self._libraries.changed:
            _c.exit(self._status)
        _c.fflush(None)
        _c._exit(self._status)

    def _requests_exit(self, code: Any) -> None:
        self._requested = code

    def _last_exit_function(self) -> None:
        self._status = self._exit_code() if _flushed() else None
        self._libraries.look()

    def _exit_code(self) -> int | None:
        if self._requested is not self:
            return _status(self._requested)
        names = vars(sys.modules["__main__"])
        if type(names.get("__loader__")).__name__ != "SourceFileLoader":
            return None  # there was no file to run
        if "__file__" in names or "__cached__" in names or "__name__" not in names:
            return None  # CPython removes the first two when the file has ended; SystemExit comes before that
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
    """Whether this error, printed by somebody, is what ended the main file: its frame stopped there."""
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
    """Calls a function when it is destroyed by finalisation."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function

    # A default, because names of modules may be gone by then.
    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if finalizing():
            self._function()


class _Libraries:
    """Whether shared libraries were loaded since this was made: see dl_iterate_phdr(3)."""

    _ADDS = 32  # offset of `dlpi_adds` in struct dl_phdr_info, on 64 bits

    def __init__(self) -> None:
        self._adds = b""
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
        self._callback = prototype(self._note)
        self.look()
        self.changed = False

    def look(self) -> None:
        """Bring `changed` up to date."""
        before = self._adds
        _c.dl_iterate_phdr(self._callback, None)
        self.changed = self._adds != before

    def _note(self, info: int, _size: int, _data: Any) -> int:
        self._adds = ctypes.string_at(info + self._ADDS, 8)
        return 1  # the counter is the same in every entry


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

"""The armed interpreter: a zygote's fork that waits, isolated, for the one program that it becomes.

`prepare_zygote` runs in the zygote; `serve_armed` in the fork, when its isolation is complete. It waits on
`control` for one JSON frame whose first byte carries the program's stdin, stdout and stderr:

    {"argv": ["main.py", ...], "cwd": "/workspace", "env": {the whole environment},
     "source": {"path": "main.py", "text": "..."} | {"path": "main.py"} | null,
     "limits": {"open_files": 1024, "cpu_time": null | seconds}}

answers {"word": "program", "warm": bool} and closes it. Then it *returns*, and its caller must return
too, all the way to `boot/sitecustomize.py`: the interpreter goes on with its start-up and runs ``main.py``
as ``python3 main.py`` does. What a fork cannot do faithfully (another file name or directory, variables that
Python or the libraries read only while they start, files that shadow what is preloaded) it leaves to a new
interpreter: it execs ``python3 ...`` instead.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import gc
import io
import os
import signal
import site
import socket
import sys
import termios
import time
from collections.abc import Sequence
from typing import Any

from executor_service.guest.deliver import set_limits, write_source
from executor_service.guest.leaving import Leaving
from executor_service.guest.preload import preload
from executor_service.guest.protocol import HEADER, pack_json, parse_header, parse_json, recv_exactly
from executor_service.guest.stash import Stash
from executor_service.guest.title import Title

COMMAND = "python3"  # argv[0] of the zygote and of every program
MAIN = "main.py"

# Read by the interpreter, the C library or preloaded packages while they start: another value wants a new
# process. Numbers of BLAS threads are not here: `freshen` sets them.
_START_UP = (
    "PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_", "OPENSSL_", "NPY_", "NUMPY_", "PANDAS_", "KMP_",
    "OPENBLAS_", "GOTO_", "MPLCONFIG", "MATPLOTLIB", "POLARS_", "SCIPY_", "SKLEARN_", "XDG_",
)  # fmt: skip
_SET_LATER = frozenset({"OPENBLAS_NUM_THREADS"})

_title: Title | None = None
_leaving: Leaving | None = None
_signals: dict[int, Any] = {}


def prepare_zygote(preload_list: Sequence[str]) -> Stash:
    """Import and hide the image's packages; leave the process ready to be forked.

    Raises:
        ImportError: a package is not there.
        RuntimeError: one of them started a thread.
    """
    global _title, _leaving
    _title = Title()
    _signals.update({number: signal.getsignal(number) for number in signal.valid_signals()})
    stash = preload(preload_list)
    _leaving = Leaving(stash.withdraw)
    _leaving.install()
    for kept in (stash, _leaving):  # nothing of theirs is ever torn down
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
    gc.collect()
    gc.freeze()
    return stash


def serve_armed(control: socket.socket, stash: Stash) -> None:
    """Wait for the program, and get ready to be it; then the caller returns to the interpreter.

    Does not return where a new interpreter is needed, the guest has gone, or the program cannot start
    (its standard error says why, and it ends with 126 or 127).
    """
    _reset_signals()
    stash.go_live()
    _new_main_module()
    _rehearse(stash)
    try:
        request, fds = _receive(control)
    except (EOFError, ConnectionError):
        os._exit(0)  # the sandbox is ending
    _take_descriptors(fds, control.fileno())
    set_limits(request["limits"])
    argv, env = [str(word) for word in request["argv"]], dict(request["env"])
    try:
        write_source(os.getcwd(), request.get("source"))
        os.chdir(request["cwd"])
    except OSError as error:
        _refuse(f"{error.strerror}: {error.filename}", 126)
    warm = argv[0] == MAIN and os.getcwd() == stash.fresh.directory and _faithful(stash, env)
    with contextlib.suppress(OSError):
        control.sendall(pack_json({"word": "program", "warm": warm}))
    control.close()
    if not warm:
        _exec(argv, env)
    _become(argv, env)


# -- the request --------------------------------------------------------------------------------------


def _receive(control: socket.socket) -> tuple[dict[str, Any], list[int]]:
    fds = array.array("i")
    header, ancillary, _, _ = control.recvmsg(
        HEADER.size, socket.CMSG_LEN(3 * fds.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if not header:
        raise EOFError
    header += recv_exactly(control, HEADER.size - len(header))
    _, length = parse_header(header)
    return parse_json(recv_exactly(control, length)), list(fds)


def _take_descriptors(fds: Sequence[int], keep: int) -> None:
    """The three become 0, 1, 2; all others but `keep` are closed. A terminal becomes the controlling one."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in fds]
    for target, fd in enumerate(high):
        os.dup2(fd, target)
    os.closerange(3, keep)
    os.closerange(max(keep + 1, 3), 1 << 30)
    with contextlib.suppress(OSError):
        os.setsid()
    if os.isatty(0):
        with contextlib.suppress(OSError):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _refuse(text: str, code: int) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{COMMAND}: cannot start: {text}\n".encode("utf-8", "backslashreplace"))
    os._exit(code)


# -- warm or cold -------------------------------------------------------------------------------------


def _faithful(stash: Stash, env: dict[str, str]) -> bool:
    """Whether a fork of this zygote can be the program that a new interpreter would be."""
    ours = {os.fsdecode(key): os.fsdecode(value) for key, value in stash.fresh.environment.items()}
    for key in ours.keys() | env.keys():
        if key.startswith(_START_UP) and key not in _SET_LATER and ours.get(key) != env.get(key):
            return False
    directories = [env.get("PIP_TARGET"), site.getusersitepackages() if site.ENABLE_USER_SITE else None]
    if any(d and os.path.isdir(d) and d not in stash.fresh.path for d in directories):
        return False  # packages were installed since the zygote started
    script = os.path.dirname(os.path.realpath(MAIN))
    return not stash.shadowed_by(script)


def _exec(argv: list[str], env: dict[str, str]) -> None:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(sys.executable, [COMMAND, *argv], env)
    except (OSError, ValueError) as error:
        _refuse(str(error), 126)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number, handler in _signals.items():
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


# -- becoming the program -----------------------------------------------------------------------------


def _rehearse(stash: Stash) -> None:
    """While nobody waits: touch what the program's start will touch. Copying pages is most of its time."""
    env = {os.fsdecode(key): os.fsdecode(value) for key, value in stash.fresh.environment.items()}
    parse_json(pack_json({"argv": [MAIN], "env": env, "source": {"path": MAIN, "text": "1"}})[HEADER.size :])
    _faithful(stash, env)
    _standard_streams()
    _show([COMMAND, MAIN], env)
    exec(compile("'rehearsed'\n", MAIN, "exec"), {})  # noqa: S102


def _become(argv: list[str], env: dict[str, str]) -> None:
    zone = os.environ.get("TZ")
    os.environ.clear()
    os.environ.update(env)
    if env.get("TZ") != zone:
        time.tzset()
    sys.argv[:] = argv
    sys.orig_argv[:] = [COMMAND, *argv]
    _show(sys.orig_argv, env)
    for name, stream in _standard_streams().items():
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if _leaving is not None:
        _leaving.guard(sys.stdin, sys.stdout, sys.stderr)


def _show(argv: Sequence[str], env: dict[str, str]) -> None:
    if _title is not None:
        _title.show(argv, env, COMMAND)


def _new_main_module() -> None:
    """The one of the zygote is frozen: what a program leaves in it would not be collected at the end."""
    old = sys.modules["__main__"]
    new = type(sys)("__main__")
    vars(new).update(vars(old))
    sys.modules["__main__"] = new


def _standard_streams() -> dict[str, io.TextIOWrapper]:
    return {name: _standard_stream(fd, name) for fd, name in enumerate(("stdin", "stdout", "stderr"))}


def _standard_stream(fd: int, name: str) -> io.TextIOWrapper:
    """As `create_stdio` in CPython's pylifecycle.c makes it, with the encoding that the locale gave."""
    old: io.TextIOWrapper = getattr(sys, f"__{name}__")
    mode = "w" if fd else "r"
    buffer: Any = open(fd, mode + "b", closefd=False)  # noqa: SIM115  for the life of the process
    buffer.raw.name = f"<{name}>"
    stream = io.TextIOWrapper(
        buffer,
        old.encoding,
        old.errors,
        newline="\n",
        line_buffering=fd == 2 or buffer.raw.isatty(),
    )
    stream.mode = mode  # type: ignore[misc]
    return stream

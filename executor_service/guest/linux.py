"""The Linux calls that Python's standard library lacks, by ctypes; nothing here decides anything.

Every function raises OSError with the kernel's errno. Sources: the man pages clone(2), setns(2),
unshare(2), mount(2), pivot_root(2), prctl(2), capabilities(7), seccomp(2).
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
from collections.abc import Iterable

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x00001000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 22, 24, 36, 38
PR_GET_TID_ADDRESS = 40
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 47, 2, 4
SECCOMP_MODE_FILTER = 2

CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 5, 6, 7, 19, 21, 24

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CLONE3 = 435
_CAP_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_with_gil = ctypes.PyDLL(None, use_errno=True)  # a forked child must come back holding the GIL
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.prctl.argtypes = (ctypes.c_int,) + (ctypes.c_ulong,) * 4
_libc.syscall.restype = ctypes.c_long
_with_gil.syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> int:
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{what}: {os.strerror(errno)}")
    return result


def unshare(flags: int) -> None:
    """Leave namespaces for new ones."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    """Enter namespaces. `fd` is a pidfd or a namespace file."""
    _check(_libc.setns(fd, flags), "setns")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """Mount something, see the man page."""
    _check(
        _libc.mount(
            source.encode(),
            target.encode(),
            kind.encode() if kind else None,
            flags,
            data.encode() if data else None,
        ),
        f"mount {source} on {target}",
    )


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """Unmount; lazily, unless told otherwise."""
    _check(_libc.umount2(target.encode(), flags), f"umount {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    """Change the root mount, see the man page."""
    number = _PIVOT_ROOT[platform.machine()]
    _check(_libc.syscall(number, new_root.encode(), put_old.encode()), "pivot_root")


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """Set or get an attribute of this process."""
    return _check(_libc.prctl(option, a, b, c, d), f"prctl {option}")


def set_hostname(name: str) -> None:
    """Name this UTS namespace's host."""
    raw = name.encode()
    _check(_libc.sethostname(raw, len(raw)), "sethostname")


def clone(flags: int) -> tuple[int, int]:
    """Fork into new namespaces with one clone3(2): (0, -1) in the child, (pid, pidfd) in the parent.

    Runs the interpreter's own fork hooks, as `os.fork` does, and gives the child's C library its
    new thread id, which its own fork would have done.
    """
    pidfd = ctypes.c_int(-1)
    args = struct.pack("=8Q", flags | CLONE_PIDFD, ctypes.addressof(pidfd), 0, 0, signal.SIGCHLD, 0, 0, 0)
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    pid = _with_gil.syscall(_CLONE3, args, ctypes.c_size_t(len(args)))
    if pid == 0:
        api.PyOS_AfterFork_Child()
        _repair_thread_id()
        return 0, -1
    errno = ctypes.get_errno()
    api.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(errno, f"clone3: {os.strerror(errno)}")
    return pid, pidfd.value


def _repair_thread_id() -> None:
    address = ctypes.c_void_p()
    try:
        prctl(PR_GET_TID_ADDRESS, ctypes.addressof(address))
    except OSError:
        return  # kernel without CONFIG_CHECKPOINT_RESTORE; only pthread_kill(self) would notice
    if address.value:
        ctypes.c_int.from_address(address.value).value = os.getpid()


def last_capability() -> int:
    """The highest capability that this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap") as file:
        return int(file.read())


def keep_capabilities(keep: Iterable[int], last: int) -> None:
    """Reduce the bounding, permitted, effective and inheritable sets to `keep`; none is ambient."""
    kept = frozenset(keep)
    for capability in range(last + 1):
        if capability not in kept:
            try:
                prctl(PR_CAPBSET_DROP, capability)
            except PermissionError:
                break  # no CAP_SETPCAP any more: what is set below and no_new_privs hold
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    _set_capabilities(sum(1 << capability for capability in kept), 0)


def carry_capabilities(kept: Iterable[int]) -> None:
    """Give up all capabilities but these, which then outlive an exec by a uid that is not 0 (ambient)."""
    kept = frozenset(kept)
    mask = sum(1 << capability for capability in kept)
    _set_capabilities(mask, mask)
    for capability in kept:
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def _set_capabilities(mask: int, inheritable: int) -> None:
    header = struct.pack("=Ii", _CAP_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = struct.pack("=6I", low, low, inheritable & 0xFFFFFFFF, high, high, inheritable >> 32)
    _check(_libc.capset(header, data), "capset")


def effective_capabilities() -> int:
    """The effective set, as a mask."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAP_VERSION_3, 0))
    data = ctypes.create_string_buffer(24)
    _check(_libc.capget(header, data), "capget")
    low, _, _, high, _, _ = struct.unpack("=6I", data.raw[:24])
    return int(low | high << 32)


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def install_seccomp(program: bytes) -> None:
    """Install a BPF program (8 bytes an instruction); needs no_new_privs."""
    filter_ = _FilterProgram(len(program) // 8, program)
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(filter_))

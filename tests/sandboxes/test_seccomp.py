"""The system call filter as data, interpreted by a small BPF machine; hostile tests try it for real."""

from __future__ import annotations

import errno
import struct

import pyseccomp
import pytest

from executor_service.sandboxes import seccomp

_DENIED_TEXT = """
mount umount2 pivot_root setns unshare chroot io_uring_setup io_uring_enter add_key keyctl
request_key bpf perf_event_open userfaultfd kexec_load init_module finit_module delete_module reboot
swapon open_by_handle_at kcmp pidfd_getfd fsopen fsmount move_mount open_tree mount_setattr
process_madvise quotactl acct sethostname settimeofday iopl ioperm vhangup syslog nfsservctl
"""
DENIED = _DENIED_TEXT.split()
X86, ALLOW = 0xC000003E, 0x7FFF0000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS


def verdict(name: str | int, *args: int, arch: int = X86) -> int:
    """What the x86_64 filter returns for a call."""
    number = name if isinstance(name, int) else pyseccomp.resolve_syscall(pyseccomp.Arch.X86_64, name)
    data = struct.pack("=IIQ6Q", number, arch, 0, *(tuple(args) + (0,) * 6)[:6])
    program = [
        struct.unpack_from("=HBBI", code, at)
        for code in [seccomp.program("x86_64")]
        for at in range(0, len(code), 8)
    ]
    accumulator, at = 0, 0
    while True:
        code, true, false, value = program[at]
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif code == 0x06:
            return value
        else:
            holds = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x25: accumulator > value,
                0x45: bool(accumulator & value),
            }
            at += true if holds[code] else false


@pytest.mark.parametrize(
    "name", ["read", "openat", "execve", "futex", "mknodat", "landlock_create_ruleset", "vfork", "statx"]
)
def test_ordinary_calls_are_allowed(name: str):
    """What programs live on."""
    assert verdict(name) == ALLOW


@pytest.mark.parametrize(
    "name",
    DENIED,
)
def test_dangerous_calls_are_denied(name: str):
    """With EPERM, never by a kill."""
    assert verdict(name) == EPERM


def test_clone3_looks_unimplemented():
    """So that the C library falls back on clone, and threads work."""
    assert verdict("clone3") == ENOSYS


@pytest.mark.parametrize(
    "flag", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80]
)
def test_clone_makes_no_namespace(flag: int):
    """Each namespace flag is denied; a thread's flags are not."""
    assert verdict("clone", flag | 17) == EPERM
    assert verdict("clone", 0x3D0F00) == ALLOW


@pytest.mark.parametrize(
    ("family", "protocol", "expected"),
    [
        (1, 0, ALLOW),
        (2, 0, ALLOW),
        (10, 0, ALLOW),
        (16, 0, ALLOW),
        (16, 9, EPERM),
        (40, 0, EPERM),
        (17, 0, EPERM),
        (38, 0, EPERM),
        (31, 0, EPERM),
    ],
)
def test_socket_families(family: int, protocol: int, expected: int):
    """UNIX, INET, INET6 and routing netlink; no vsock, packet, alg, bluetooth, audit."""
    assert verdict("socket", family, 1, protocol) == expected


@pytest.mark.parametrize("request_", [0x5412, 0x541C])
def test_terminal_injection_is_denied(request_: int):
    """TIOCSTI and TIOCLINUX; other ioctls pass."""
    assert verdict("ioctl", 0, request_) == EPERM
    assert verdict("ioctl", 0, 0x5413) == ALLOW


def test_other_architectures_and_x32_are_denied():
    """A 32-bit table would give other meanings to the same numbers."""
    assert verdict("read", arch=0x40000003) == EPERM
    assert verdict(0x40000000 | 1) == EPERM


def test_unknown_numbers_are_denied():
    """A call that the kernel learns tomorrow is not allowed today."""
    assert verdict(9999) == EPERM


def test_ranges_are_inclusive_runs():
    """Unsorted numbers with repeats become runs."""
    assert seccomp.ranges([5, 1, 2, 3, 3, 9]) == [(1, 3), (5, 5), (9, 9)]


def test_an_unknown_machine_is_refused():
    """No filter is worse than none: the caller gets an error."""
    with pytest.raises(seccomp.UnsupportedMachine, match="riscv64"):
        seccomp.program("riscv64")

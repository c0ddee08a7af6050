"""The system calls that user code may make, as a classic BPF program for seccomp(2).

An allow-list: what Docker's default profile allows to a container without capabilities, less
io_uring, asynchronous I/O (its contexts are one number for the whole host), secret memory, keyrings,
and socket families other than UNIX, INET, INET6 and NETLINK_ROUTE. What is not allowed fails with
EPERM; `clone3` with ENOSYS, so that the C library falls back on `clone`, whose flags a filter can
read. A call by another architecture's table (32-bit, x32) fails with EPERM too. Never kills: a program
that probes gets an error, as in a container.

Source of the list: the default profile of moby (profiles/seccomp/default.json).
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Callable, Iterable, Sequence

_ALLOWED_TEXT = """
accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown
clock_adjtime clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat
dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2
execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2
fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs
fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents
getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid
getpriority getrandom getresgid getresuid getrlimit get_robust_list getrusage getsid getsockname
getsockopt get_thread_area gettid gettimeofday getuid getxattr getxattrat inotify_add_watch inotify_init
inotify_init1 inotify_rm_watch
ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown
lgetxattr link linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr
lstat madvise map_shadow_stack membarrier memfd_create mincore mkdir mkdirat mlock mlock2
mknod mknodat mlockall mmap modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
mq_timedsend mq_unlink
mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep
newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv
process_vm_writev pselect6 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv
recvfrom recvmmsg recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2
restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam
sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl
semget semop semtimedop sendfile sendmmsg sendmsg sendto setfsgid setfsuid setgid setgroups setitimer
setpgid setpriority setregid setresgid setresuid setreuid setrlimit set_robust_list setsid setsockopt
set_thread_area set_tid_address setuid setxattr setxattrat shmat shmctl shmdt shmget shutdown
sigaltstack signalfd signalfd4 splice stat statfs statmount statx symlink symlinkat sync
sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink
unlinkat uretprobe utime utimensat utimes vfork vmsplice wait4 waitid write writev
"""
ALLOWED = tuple(_ALLOWED_TEXT.split())

# clone flags that make namespaces: mnt, cgroup, uts, ipc, user, pid, net, and time
NAMESPACE_FLAGS = (
    0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x80
)
SOCKET_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
AF_NETLINK, NETLINK_ROUTE = 16, 0
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
TTY_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_LOAD, _RETURN, _JEQ, _JGE, _JGT, _JSET = 0x20, 0x06, 0x15, 0x35, 0x25, 0x45
_NR, _ARCH, _ARG0, _ARG1, _ARG2 = 0, 4, 16, 24, 32

Instruction = tuple[int, int, int, int]


class UnsupportedMachine(RuntimeError):
    """This processor's system call table is not known here."""


def program(machine: str | None = None, *, denied: Iterable[str] = ()) -> bytes:
    """The filter for `machine` (default: this one), 8 bytes an instruction.

    `denied` are calls of the list that are left out all the same.

    Raises:
        UnsupportedMachine: neither x86_64 nor aarch64.
    """
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        raise UnsupportedMachine(f"no seccomp filter for {machine}; x86_64 and aarch64 are supported")
    resolve = _resolver(machine)
    allowed = ranges(number for name in {*ALLOWED} - {*denied} if (number := resolve(name)) >= 0)
    deny, allow = _return(_ERRNO | errno.EPERM), _return(_ALLOW)
    code: list[Instruction] = [
        _load(_ARCH),
        (_JEQ, 1, 0, _ARCHITECTURES[machine]),
        deny,
        _load(_NR),
        (_JGE, 0, 1, _X32_BIT),
        deny,
        (_JEQ, 0, 1, resolve("clone3")),
        _return(_ERRNO | errno.ENOSYS),
    ]
    code += _block(resolve("clone"), [_load(_ARG0), (_JSET, 0, 1, NAMESPACE_FLAGS), deny, allow])
    code += _block(resolve("socket"), _sockets())
    code += _block(resolve("socketpair"), _sockets())
    code += _block(resolve("personality"), [_load(_ARG0), *_any_of(PERSONALITIES), deny, allow])
    code += _block(resolve("ioctl"), [_load(_ARG1), *_any_of(TTY_INJECTION), allow, deny])
    for first, last in allowed:
        code += [(_JGE, 0, 2, first), (_JGT, 1, 0, last), allow]
    code.append(deny)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Inclusive runs of consecutive numbers, ascending."""
    found: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def _resolver(machine: str) -> Callable[[str], int]:
    import pyseccomp  # the only use of libseccomp: its table of system call numbers

    arch = pyseccomp.Arch.X86_64 if machine == "x86_64" else pyseccomp.Arch.AARCH64
    return lambda name: int(pyseccomp.resolve_syscall(arch, name))


def _load(offset: int) -> Instruction:
    return (_LOAD, 0, 0, offset)


def _return(value: int) -> Instruction:
    return (_RETURN, 0, 0, value)


def _block(number: int, body: Sequence[Instruction]) -> list[Instruction]:
    """`body` (which always returns) for one system call number; skipped for every other."""
    return [(_JEQ, 0, len(body), number), *body] if number >= 0 else []


def _any_of(values: Sequence[int]) -> list[Instruction]:
    """Jump over the next instruction when the loaded word is one of `values`."""
    return [(_JEQ, len(values) - position, 0, value) for position, value in enumerate(values)]


def _sockets() -> list[Instruction]:
    deny, allow = _return(_ERRNO | errno.EPERM), _return(_ALLOW)
    return [
        _load(_ARG0),
        *_any_of(SOCKET_FAMILIES),
        (_JEQ, 1, 3, AF_NETLINK),
        allow,
        _load(_ARG2),
        (_JEQ, 1, 0, NETLINK_ROUTE),
        deny,
        allow,
    ]


def docker_profile() -> dict[str, object]:
    """The same list in the form that container engines take (OCI runtime specification, `linux.seccomp`).

    It holds for all of a container, process 1 included; names that the engine's machine does not know are
    ignored there. User code has :func:`program` besides: this form cannot say "any request but these" of an
    ioctl.
    """

    def rule(names: Iterable[str], *arguments: dict[str, object]) -> dict[str, object]:
        return {"names": sorted(names), "action": "SCMP_ACT_ALLOW", "args": list(arguments)}

    def equal(index: int, value: int) -> dict[str, object]:
        return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}

    no_namespace = {"index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    rules = [
        rule({*ALLOWED, "ioctl"}),
        rule({"clone"}, no_namespace),
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS, "args": []},
    ]
    # Rules for one call are alternatives; conditions of one rule hold together.
    rules += [rule({"socket", "socketpair"}, equal(0, family)) for family in SOCKET_FAMILIES]
    rules.append(rule({"socket", "socketpair"}, equal(0, AF_NETLINK), equal(2, NETLINK_ROUTE)))
    rules += [rule({"personality"}, equal(0, value)) for value in PERSONALITIES]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.EPERM,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": rules,
    }

"""Giving up power: how a process of ours becomes the user's, the relay's, or a bare guest.

Two worlds. *Many uids*: process 1 is uid 0 of the sandbox's user namespace and user code is uid 1000.
*One uid* (the service runs as an ordinary user): both are uid 1000, so user code goes into a user
namespace below the guest's, in which nothing of the guest can be traced.
"""

from __future__ import annotations

import os
import resource
import signal
from dataclasses import dataclass
from typing import Any, Self

from executor_service.guest import linux
from executor_service.guest.template import RELAY, USER

_GUEST_CAPABILITIES = (linux.CAP_KILL, linux.CAP_SETUID, linux.CAP_SETGID, linux.CAP_SYS_RESOURCE)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a sandbox's processes need to know to give up power."""

    many_uids: bool
    seccomp: bytes
    last_capability: int

    @classmethod
    def of(cls, config: dict[str, Any]) -> Self:
        """From the service's configuration of a nursery, and what this kernel knows."""
        return cls(
            many_uids=config["many_uids"],
            seccomp=bytes.fromhex(config["seccomp"]),
            last_capability=linux.last_capability(),
        )


def confine_guest(identity: Identity) -> None:
    """Process 1, after its mounts are made: keep only what it needs to start and end user code."""
    linux.keep_capabilities(_GUEST_CAPABILITIES if identity.many_uids else (), identity.last_capability)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def become_user(identity: Identity, processes: int | None = None) -> None:
    """Become user code: uid 1000, no capability, no way to gain one, filtered, first to die.

    `processes` is the limit of processes and threads of this uid. The caller execs or runs user code next.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if processes is not None:
        resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
    _take_users_place(identity)
    _seal(identity)
    _die_first()


def become_file_helper(identity: Identity) -> None:
    """Become the user for a file operation: the same rights, but not for an instant open to a debugger.

    So it is not first to die: writing that down would need it dumpable, while code of the same uid may watch.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _take_users_place(identity)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    _seal(identity)


def _take_users_place(identity: Identity) -> None:
    """The user's uid; with one uid for all, a user namespace of its own, closed to other tracers."""
    if identity.many_uids:
        _switch_uid(USER, identity)
    else:
        linux.prctl(linux.PR_SET_DUMPABLE, 1)  # /proc/self is ours to write only when dumpable
        _enter_own_user_namespace()


def become_relay(identity: Identity) -> None:
    """Become the process that reads what a kernel says: no power over anything, not the user's either."""
    if identity.many_uids:
        _switch_uid(RELAY, identity)
    _seal(identity)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)


def _switch_uid(uid: int, identity: Identity) -> None:
    linux.keep_capabilities((linux.CAP_SETUID, linux.CAP_SETGID), identity.last_capability)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _enter_own_user_namespace() -> None:
    linux.unshare(linux.CLONE_NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{USER} {USER} 1"),
        ("gid_map", f"{USER} {USER} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _seal(identity: Identity) -> None:
    linux.keep_capabilities((), identity.last_capability)
    if linux.effective_capabilities():
        raise PermissionError("capabilities remain after giving them up")
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.install_seccomp(identity.seccomp)


def _die_first() -> None:
    linux.prctl(
        linux.PR_SET_DUMPABLE, 1
    )  # a change of uid cleared it, and with it the right to the next line
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")

"""The local backend's first process: makes the nursery's namespaces and template root, then waits.

Started by the service as ``python -I -S launcher.py FD``, never forked from it; its configuration is the
first message on that socket, so that no command line inside a sandbox shows it. Its one
child is process 1 of a new pid namespace and becomes the nursery, by exec of the image's interpreter.
When the service ends, this process is killed (PDEATHSIG), and with it the namespace and all it holds.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

NURSERY_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
_SCRIPT = "executor_service/guest/nursery.py"


def main() -> None:
    """Never returns; the exit status is the nursery's."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, os.path.dirname(os.path.dirname(here)))
    from executor_service.guest import channel, linux, template

    _shed_inheritance()
    control = int(sys.argv[1])
    with socket.socket(fileno=os.dup(control)) as sock:
        config, _ = channel.receive(sock)
    try:
        if not config["many_uids"]:
            uid, gid = os.geteuid(), os.getegid()
            linux.unshare(linux.CLONE_NEWUSER)
            _map_ids(uid, gid)
        linux.unshare(
            linux.CLONE_NEWNS
            | linux.CLONE_NEWPID
            | linux.CLONE_NEWIPC
            | linux.CLONE_NEWUTS
            | linux.CLONE_NEWNET
        )
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        pid = os.fork()
        if pid == 0:
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
            channel.close_others([control])
            template.build(
                config["root"], config["env_dir"], config["base_prefix"], here, config["ca_bundle"]
            )
            os.set_inheritable(control, True)
            if not config["many_uids"]:
                # With these a zygote enters the namespaces of a guest that is not dumpable: setns(2).
                linux.carry_capabilities((linux.CAP_SYS_ADMIN, linux.CAP_SYS_PTRACE))
            python = f"{template.ENV}/bin/python3"
            os.execve(
                python, [python, "-I", "-S", f"{template.LIB}/{_SCRIPT}", str(control)], NURSERY_ENVIRONMENT
            )
    except OSError as error:
        with socket.socket(fileno=control) as sock:
            channel.send(sock, {"event": "broken", "detail": str(error), "errno": error.errno})
        os._exit(1)
    os.close(control)
    _, status = os.waitpid(pid, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _shed_inheritance() -> None:
    """What the service was started with (nohup, a tight umask) must not reach the template or programs."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}:
        signal.signal(number, signal.SIG_DFL)  # the last two are Python's own doing, in every process
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGINT, signal.SIGTERM):  # the service's business: it drains, then kills us
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o022)


def _map_ids(uid: int, gid: int) -> None:
    for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {uid} 1"), ("gid_map", f"1000 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


if __name__ == "__main__":
    main()

"""A container engine of the tests, which they may stop, kill and start again; the machine's is left alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import engine

UP_WITHIN = 60.0


class OwnEngine:
    """A `dockerd` with everything of its own below one directory. It has no network: nobody needs one."""

    def __init__(self, *, live_restore: bool) -> None:
        # Short: a socket's path holds 107 bytes. Not /tmp, which may be memory and no place for overlays.
        self._home = Path(tempfile.mkdtemp(prefix="codecell-", dir="/var/tmp"))
        self.address = f"unix://{self._home}/docker.sock"
        self.live_restore = live_restore
        self._log = (self._home / "log").open("wb")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            self.start()
        self.clear()
        self.stop()
        self._log.close()
        for pid in self._left():  # shims of containers that it had lost sight of
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for point in reversed([each for each in mounts if each.startswith(f"{self._home}/")]):
            subprocess.run(["umount", "--lazy", point], check=True)
        shutil.rmtree(self._home)

    def _left(self) -> list[int]:
        """Shims that still name this engine."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                line = path.read_bytes()
                if b"containerd-shim" in line and f"{self._home}/".encode() in line:
                    found.append(int(path.parent.name))
        return found

    def start(self) -> None:
        """Returns when it answers."""
        home = self._home
        (home / "daemon.json").write_text("{}")
        command = ["dockerd", "--config-file", f"{home}/daemon.json", "--host", self.address]
        command += ["--data-root", f"{home}/data", "--exec-root", f"{home}/exec", "--pidfile", f"{home}/pid"]
        command += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
        command += [f"--live-restore={str(self.live_restore).lower()}"]
        # In a network namespace of its own: without a bridge it would remove that of the machine's engine.
        # And should the tests be killed, it ends with them.
        apart = ["unshare", "--net", "setpriv", "--pdeathsig", "KILL"]
        log = {"stdin": subprocess.DEVNULL, "stdout": self._log, "stderr": self._log}
        self._process = subprocess.Popen([*apart, *command], **log)
        deadline = time.monotonic() + UP_WITHIN
        while not self._answers():
            assert self._process.poll() is None, f"dockerd ended: {self._tail()}"
            assert time.monotonic() < deadline, f"dockerd does not answer: {self._tail()}"
            time.sleep(0.05)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
            sock.settimeout(5)
            sock.connect(f"{self._home}/docker.sock")
            sock.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in sock.recv(100)
        return False

    def _tail(self) -> str:
        return (self._home / "log").read_text(errors="replace")[-2000:]

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Returns when it has ended; SIGKILL is how it would crash."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(UP_WITHIN)
        self._process = None
        self._forget_containerd()

    def _forget_containerd(self) -> None:
        """Its own containerd dies with it; where nobody reaps that, the next would wait for a dead one."""
        named = self._home / "exec/containerd/containerd.pid"
        deadline = time.monotonic() + UP_WITHIN
        while named.exists() and _lives(int(named.read_text())):
            assert time.monotonic() < deadline, "its containerd goes on"
            time.sleep(0.05)
        named.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove every container, which here all are the tests'."""
        with engine.client(self.address) as client:
            for each in client.containers(all=True):
                with engine.gone_is_fine():
                    client.remove_container(each["Id"], force=True)

    def take(self, reference: str) -> None:
        """Copy an image of the machine's engine into this one."""
        with engine.client() as source, engine.client(self.address) as target:
            target.load_image(source.get_image(reference))  # in parts, as it comes
            assert target.inspect_image(reference)


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


def usable() -> bool:
    """Whether this machine lets us start one."""
    return os.geteuid() == 0 and shutil.which("dockerd") is not None

"""A container engine of the tests, which they may stop, kill and start again; the machine's is left alone."""

from __future__ import annotations

import os
import shutil
import signal
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
        shutil.rmtree(self._home)

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
        try:
            with engine.client(self.address):
                return True
        except engine.NoEngine:
            return False

    def _tail(self) -> str:
        return (self._home / "log").read_text(errors="replace")[-2000:]

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Returns when it has ended; SIGKILL is how it would crash."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(UP_WITHIN)
        self._process = None

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


def usable() -> bool:
    """Whether this machine lets us start one."""
    return os.geteuid() == 0 and shutil.which("dockerd") is not None

"""A fork of a warm interpreter against a freshly started one: same programs, same output, byte by byte."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from executor_service.guest import armed, channel
from executor_service.guest.launch import send_with_fds
from executor_service.guest.protocol import recv_json

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("fresh_probes", HERE / "fresh_probes.py")
assert _spec is not None
assert _spec.loader is not None
fresh_probes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fresh_probes)

BOOT = Path(armed.__file__).parent / "boot"
PYTHON = os.environ.get("CODECELL_TEST_PYTHON", "/opt/codecell-cache/proto/bin/python")
DEADLINE = 60.0
STDIN = b"first\nse\xff rest\n"
STDLIB = ("json", "logging.handlers", "decimal", "random", "asyncio", "multiprocessing.pool", "xml.etree.ElementTree",
          "concurrent.futures.process", "ssl", "email.message", "unittest", "ctypes.util", "tempfile", "uuid")  # fmt: skip
IMAGE = ("numpy", "pandas", "matplotlib", "matplotlib.pyplot")


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a program ended; `warm` is None for a fresh interpreter."""

    stdout: str
    stderr: str
    status: int
    warm: bool | None = None
    cpu_time: float = 0.0
    first_output: float = 0.0
    duration: float = 0.0


class TestZygote:
    """The zygote process under test and its workspace."""

    __test__ = False

    def __init__(self, python: str, preload: Sequence[str], workspace: Path) -> None:
        self.python = str(Path(python).parent / "python3")
        self.workspace = workspace
        self.env = {
            "PATH": f"{Path(self.python).parent}:/usr/bin:/bin",
            "HOME": str(workspace),
            "LANG": "C.UTF-8",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "MPLCONFIGDIR": str(workspace.parent / "matplotlib"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._control, theirs = channel.pair()
        extra = {
            "PYTHONPATH": f"{BOOT}:{HERE}",
            "CODECELL_ZYGOTE": "fresh_probes:zygote_main",
            "CODECELL_TEST_PRELOAD": json.dumps(preload),
        }
        starter = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.execv(sys.argv[2], ['python3', 'main.py'])"
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", starter, str(theirs.fileno()), self.python],
            cwd=workspace, env={**self.env, **extra}, pass_fds=(theirs.fileno(),),
        )  # fmt: skip
        theirs.close()
        self._control.settimeout(DEADLINE)
        channel.receive(self._control)

    def close(self) -> None:
        self._control.close()
        self._process.wait(DEADLINE)

    def warm(
        self,
        text: str | None,
        *,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        path: str = "main.py",
        cwd: str | None = None,
        stdin: bytes = STDIN,
        cpu_time: float | None = None,
        settle: float = 0.0,
    ) -> Run:
        """Run a program in a fork."""
        control, theirs = socket.socketpair()
        channel.send(self._control, {"word": "fork"}, [theirs.fileno()])
        theirs.close()
        time.sleep(settle)
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        os.write(in_write, stdin)
        os.close(in_write)
        request = {
            "argv": [path, *args],
            "cwd": cwd or str(self.workspace),
            "env": {**self.env, **(env or {})},
            "source": None if text is None else {"path": path, "text": text},
            "limits": {"open_files": 512, "cpu_time": cpu_time},
        }
        started = time.perf_counter()
        send_with_fds(control, request, [in_read, out_write, err_write])
        for fd in (in_read, out_write, err_write):
            os.close(fd)
        outputs, first = _drain(out_read, err_read, started)
        end, _ = channel.receive(self._control)
        duration = time.perf_counter() - started
        with control:
            word = recv_json(control) if end["status"] != 126 << 8 else {"warm": None}
        return Run(
            stdout=_same(outputs[out_read]),
            stderr=_same(outputs[err_read]),
            status=end["status"],
            cpu_time=end["cpu_time"],
            warm=word["warm"],
            first_output=first,
            duration=duration,
        )

    def fresh(self, text: str, *, args: Sequence[str] = (), env: Mapping[str, str] | None = None, stdin: bytes = STDIN) -> Run:
        """Run a program in a new interpreter, started as the guest starts programs."""
        (self.workspace / "main.py").unlink(missing_ok=True)
        (self.workspace / "main.py").write_text(text)
        limits = "import os, sys, resource as r; r.setrlimit(r.RLIMIT_NOFILE, (512, 512)); "
        limits += "r.setrlimit(r.RLIMIT_CORE, (0, 0)); os.execv(sys.argv[1], ['python3', *sys.argv[2:]])"
        done = subprocess.run(
            [sys.executable, "-c", limits, self.python, "main.py", *args],
            cwd=self.workspace, env={**self.env, **(env or {})}, input=stdin, capture_output=True,
            start_new_session=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        status = -done.returncode if done.returncode < 0 else done.returncode << 8
        return Run(stdout=_same(done.stdout), stderr=_same(done.stderr), status=status)


def _drain(out: int, err: int, started: float) -> tuple[dict[int, bytes], float]:
    outputs, first, open_fds = {out: b"", err: b""}, 0.0, {out, err}
    while open_fds:
        ready = select.select(list(open_fds), [], [], DEADLINE)[0]
        assert ready, f"no end within {DEADLINE} s: {outputs}"
        for fd in ready:
            data = os.read(fd, 1 << 16)
            first = first or time.perf_counter() - started
            outputs[fd] += data
            if not data:
                open_fds.discard(fd)
                os.close(fd)
    return outputs, first


def _same(data: bytes) -> str:
    """Text without what differs between any two runs: addresses, process ids in file names."""
    text = data.decode("utf-8", "backslashreplace")
    return re.sub(r"0x[0-9a-f]{6,}|(?<=started )\d{9,}", "ADDRESS", text)


def _need(python: str) -> str:
    if not os.path.exists(python):
        pytest.skip(f"{python} is not there: set CODECELL_TEST_PYTHON to an interpreter with the image's packages")
    return python


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestZygote]:
    """A zygote with the image's packages."""
    zygote = TestZygote(_need(PYTHON), (*IMAGE, *STDLIB), tmp_path_factory.mktemp("image"))
    yield zygote
    zygote.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestZygote]:
    """A zygote of this interpreter (or CODECELL_TEST_PLAIN_PYTHON) with modules of the standard library."""
    python = os.environ.get("CODECELL_TEST_PLAIN_PYTHON", PYTHON if os.path.exists(PYTHON) else sys.executable)
    zygote = TestZygote(python, STDLIB, tmp_path_factory.mktemp("plain"))
    yield zygote
    zygote.close()


def _compare(zygote: TestZygote, name: str, text: str) -> None:
    for path in sorted(zygote.workspace.iterdir(), reverse=True):
        if path.is_file():
            path.unlink()
    (zygote.workspace / "lib" / "random.py").unlink(missing_ok=True)
    warm = zygote.warm(text)
    assert warm.warm, "the probe ran in a new interpreter"
    for path in zygote.workspace.iterdir():
        if path.is_file():
            path.unlink()
    fresh = zygote.fresh(text)
    if name in fresh_probes.ACCEPTED:
        return
    assert (warm.stdout, warm.stderr, warm.status) == (fresh.stdout, fresh.stderr, fresh.status)


@pytest.mark.parametrize("name", fresh_probes.PROBES)
def test_fork_is_like_fresh(plain: TestZygote, name: str) -> None:
    """What a program sees of its interpreter is what it would see in a freshly started one."""
    _compare(plain, name, fresh_probes.PROBES[name])


@pytest.mark.parametrize("name", fresh_probes.PACKAGES)
def test_fork_with_packages_is_like_fresh(image: TestZygote, name: str) -> None:
    """Preloaded packages are found as if they had just been imported."""
    _compare(image, name, fresh_probes.PACKAGES[name])


@pytest.mark.parametrize("name", fresh_probes.PROBES)
def test_heavy_fork_is_like_fresh(image: TestZygote, name: str) -> None:
    """Nothing of numpy, pandas and matplotlib shows in a program that does not use them."""
    _compare(image, name, fresh_probes.PROBES[name])

"""A fork of a warm interpreter against a freshly started one: same programs, same output, byte by byte."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import select
import shutil
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
PYTHON = os.environ["CODECELL_TEST_PYTHON"]
DEADLINE = 60.0
STDIN = b"first\nse\xff rest\n"
STDLIB = (
    *("json", "logging.handlers", "decimal", "random", "asyncio", "multiprocessing.pool", "email.message"),
    *("xml.etree.ElementTree", "concurrent.futures.process", "ssl", "unittest", "ctypes.util", "tempfile"),
    "uuid",
)
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
        starter = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.execv(sys.argv[2], ['python3', 'main.py'])"
        )
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

    def fresh(
        self,
        text: str,
        *,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        stdin: bytes = STDIN,
    ) -> Run:
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
        pytest.skip(
            f"{python} is not there: set CODECELL_TEST_PYTHON to an interpreter with the image's packages"
        )
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
    python = os.environ.get(
        "CODECELL_TEST_PLAIN_PYTHON", PYTHON if os.path.exists(PYTHON) else sys.executable
    )
    zygote = TestZygote(python, STDLIB, tmp_path_factory.mktemp("plain"))
    yield zygote
    zygote.close()


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _compare(zygote: TestZygote, name: str, text: str) -> None:
    _empty(zygote.workspace)
    warm = zygote.warm(text)
    assert warm.warm, "the probe ran in a new interpreter"
    _empty(zygote.workspace)
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


# -- what is asked of the program ---------------------------------------------------------------------


@pytest.fixture
def empty(plain: TestZygote) -> TestZygote:
    """The plain zygote with an empty workspace."""
    _empty(plain.workspace)
    return plain


SHOW = "import sys\nprint(sys.argv, sys.orig_argv, open('/proc/self/cmdline').read().split(chr(0)))"


def test_arguments(empty: TestZygote) -> None:
    """Arguments reach sys.argv, sys.orig_argv and the process's command line, however long they are."""
    args = ["-x", "caf\u00e9", "", "a" * 5000]
    warm, fresh = empty.warm(SHOW, args=args), empty.fresh(SHOW, args=args)
    assert warm.warm
    assert warm.stdout == fresh.stdout


def test_environment_is_whole(empty: TestZygote) -> None:
    """The environment is the message's alone; the time zone of it holds."""
    text = "import os, time\nprint(dict(os.environ), time.tzname, open('/proc/self/environ').read())"
    env = {"TZ": "Asia/Tokyo", "KEY": "value=\n", "EMPTY": ""}
    warm, fresh = empty.warm(text, env=env), empty.fresh(text, env=env)
    assert warm.warm
    assert sorted(warm.stdout) == sorted(fresh.stdout)
    assert "JST" in warm.stdout
    assert "CODECELL" not in warm.stdout


@pytest.mark.parametrize(
    "env",
    [{"PYTHONHASHSEED": "7"}, {"PYTHONUNBUFFERED": "1"}, {"PYTHONOPTIMIZE": "1"}, {"PYTHONPATH": "/nowhere"},
     {"LC_ALL": "C"}, {"LD_BIND_NOW": "1"}],
)  # fmt: skip
def test_start_up_variables_want_a_new_interpreter(empty: TestZygote, env: dict[str, str]) -> None:
    """Variables that are read only while Python starts take effect, in a newly started interpreter."""
    text = "import sys\nprint(sys.flags, hash('x') if sys.flags.hash_randomization == 0 else '', sys.path)\n"
    text += "print(sys.stdout.encoding, sys.stdout.write_through)"
    warm, fresh = empty.warm(text, env=env), empty.fresh(text, env=env)
    assert warm.warm is False
    assert (warm.stdout, warm.stderr, warm.status) == (fresh.stdout, fresh.stderr, fresh.status)


@pytest.mark.parametrize("shadow", ["random.py", "decimal/__init__.py", "_decimal.so", "json.py"])
def test_own_module_wins(empty: TestZygote, shadow: str) -> None:
    """A file of the program's own that stands before a preloaded module is what gets imported."""
    path = empty.workspace / shadow
    path.parent.mkdir(exist_ok=True)
    path.write_text("value = 'own'")
    name = shadow.split(".", maxsplit=1)[0].split("/", maxsplit=1)[0]
    text = f"try:\n    import {name} as m\n    print(m.__file__, m.value)\n"
    text += "except ImportError as e:\n    print(e)"
    warm, fresh = empty.warm(text), empty.fresh(text)
    assert warm.warm is False
    assert (warm.stdout, warm.stderr, warm.status) == (fresh.stdout, fresh.stderr, fresh.status)


def test_own_optional_dependency_is_found(image: TestZygote) -> None:
    """A file named like an optional package that the image lacks makes no stale preloaded package."""
    _empty(image.workspace)
    (image.workspace / "bottleneck.py").write_text("__version__ = '99'")
    assert image.warm("print(1)").warm is False
    (image.workspace / "bottleneck.py").unlink()
    assert image.warm("print(1)").warm is True


def test_other_names_of_directories_do_not_matter(empty: TestZygote) -> None:
    """A plain directory named like a module shadows nothing, and costs nothing."""
    (empty.workspace / "json").mkdir()
    (empty.workspace / "json" / "data.txt").write_text("")
    run = empty.warm("import json\nprint(json.loads('[1]'))")
    assert (run.warm, run.stdout) == (True, "[1]\n")


def test_other_file_and_directory(empty: TestZygote) -> None:
    """A program that is not main.py, or runs elsewhere, gets a new interpreter."""
    text = "import sys\nprint(sys.argv, __file__, sys.path[0])"
    run = empty.warm(text, path="src/app.py", args=["a"])
    source = empty.workspace / "src"
    assert run.warm is False
    assert run.stdout == f"['src/app.py', 'a'] {source}/app.py {source}\n"


def test_missing_directory(empty: TestZygote) -> None:
    """A working directory that is not there is said on stderr."""
    run = empty.warm("print(1)", cwd="/no/such/place")
    assert run.status == 126 << 8
    assert "No such file or directory: /no/such/place" in run.stderr


def test_missing_file(empty: TestZygote) -> None:
    """A main file that is not there is Python's own error."""
    warm = empty.warm(None)
    assert warm.status == 2 << 8
    assert "can't open file" in warm.stderr


def test_source_follows_no_link(empty: TestZygote, tmp_path: Path) -> None:
    """A link in the workspace at the program's path is replaced; one among its parents is refused."""
    target = tmp_path / "target"
    target.write_text("untouched")
    (empty.workspace / "main.py").symlink_to(target)
    (empty.workspace / "out").symlink_to(tmp_path)
    assert empty.warm("print('mine')").stdout == "mine\n"
    assert empty.warm("print(1)", path="out/app.py").status == 126 << 8
    assert empty.warm("print(1)", path="../app.py").status == 126 << 8
    assert target.read_text() == "untouched"
    assert not (tmp_path / "app.py").exists()


def test_large_source(empty: TestZygote) -> None:
    """A program of 32 MiB runs."""
    text = "#" * (32 << 20) + "\nprint('end')"
    assert empty.warm(text).stdout == "end\n"


def test_cpu_time(empty: TestZygote) -> None:
    """The CPU limit ends a program as its resource limit does."""
    run = empty.warm("print('on', flush=True)\nwhile True: pass", cpu_time=0.5)
    assert (run.stdout, run.status & 0x7F) == ("on\n", 24)


def test_broken_stdout(empty: TestZygote) -> None:
    """Output that nobody reads gives Python's own message and exit code 120."""
    text = "import os\nread, write = os.pipe()\nos.dup2(write, 1)\n"
    text += "os.close(read)\nos.close(write)\nprint('lost')"
    warm, fresh = empty.warm(text), empty.fresh(text)
    assert warm.status == 120 << 8
    assert (warm.stdout, warm.stderr, warm.status) == (fresh.stdout, fresh.stderr, fresh.status)


def test_forks_share_no_randomness(image: TestZygote) -> None:
    """Two programs draw different numbers from every generator."""
    _empty(image.workspace)
    text = "import random, uuid, tempfile, secrets, multiprocessing as m, numpy as np\n"
    text += "print(random.random(), np.random.rand(), np.random.default_rng().random(), uuid.uuid4(),"
    text += " next(tempfile._get_candidate_names()), secrets.token_hex(),"
    text += " bytes(m.current_process().authkey), sep='\\n')"
    first, second = image.warm(text).stdout.split(), image.warm(text).stdout.split()
    assert len(first) >= 7
    assert not set(first) & set(second)


def test_blas_threads_follow_the_environment(image: TestZygote) -> None:
    """Numeric libraries get the threads that the environment asks for, although none exists while forking."""
    _empty(image.workspace)
    text = "import numpy as np, os\nnp.ones((400, 400)) @ np.ones((400, 400))\n"
    text += "print(len(os.listdir('/proc/self/task')))"
    assert image.warm(text).stdout == "1\n"
    env = {"OPENBLAS_NUM_THREADS": "2"}
    warm = image.warm(text, env=env)
    assert warm.warm
    assert warm.stdout == image.fresh(text, env=env).stdout


def test_guest_that_goes_away(empty: TestZygote) -> None:
    """An armed interpreter whose control socket closes ends quietly."""
    control, theirs = socket.socketpair()
    channel.send(empty._control, {"word": "fork"}, [theirs.fileno()])
    theirs.close()
    control.close()
    assert channel.receive(empty._control)[0]["status"] == 0


def test_concurrent_imports(image: TestZygote) -> None:
    """Threads that import preloaded packages at once all get them whole."""
    _empty(image.workspace)
    for _ in range(5):
        run = image.warm(fresh_probes.PACKAGES["in_threads"])
        assert (run.stdout, run.stderr, run.status) == ("[] [[1]] (1,)\n", "", 0)


def test_a_plain_process_never_becomes_a_program(tmp_path: Path) -> None:
    """Without the boot hook a fork cannot return to the interpreter's start, and knows it."""
    code = "from executor_service.guest import armed\n"
    code += "print(armed.prepare_zygote(['json']).fresh.directory)"
    env = {"PYTHONPATH": str(Path(armed.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "None\n"


@pytest.mark.parametrize(
    ("text", "limit"),
    [("print(1)", 0.15), ("import pandas as pd\nprint(pd.Series([1, 2]).sum())", 0.3)],
)
def test_time_to_first_output(image: TestZygote, text: str, limit: float) -> None:
    """A warm program prints within milliseconds (the limit is for slow machines; the figures are printed)."""
    _empty(image.workspace)
    runs = [image.warm(text, settle=0.03) for _ in range(15)]
    first = sorted(run.first_output for run in runs)[len(runs) // 2]
    whole = sorted(run.duration for run in runs)[len(runs) // 2]
    print(f"{text!r}: first output {first * 1000:.1f} ms, whole {whole * 1000:.1f} ms")
    assert first < limit

"""What a zygote hides, and how it gives it back: the stash itself, without forks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from executor_service.guest import preload

PYTHON = os.environ.get("CODECELL_TEST_PYTHON", sys.executable)
GUEST = Path(preload.__file__).parent
ENV = {"PATH": f"{Path(PYTHON).parent}:/usr/bin:/bin", "HOME": "/nonexistent"}
MAIN = """
import json, sys
def main():
    from executor_service.guest import armed
    stash = armed.prepare_zygote(sys.argv_preload)
    out = {"visible": sorted(sys.modules)}
    exec(open("check.py").read(), {"stash": stash, "out": out})
    print(json.dumps(out), flush=True)
    import os
    os._exit(0)
"""


def _inside(tmp_path: Path, modules: list[str], check: str, **files: str) -> dict[str, Any]:
    """Run `check` in a zygote that has preloaded `modules`; what it puts into `out`."""
    boot = tmp_path / "boot"
    work = tmp_path / "work"
    boot.mkdir()
    work.mkdir()
    for name, text in files.items():
        (boot / f"{name}.py").write_text(text)
    (boot / "zygote_under_test.py").write_text(MAIN.replace("sys.argv_preload", repr(modules)))
    (work / "check.py").write_text(check)
    env = {
        **ENV,
        "PYTHONPATH": f"{GUEST / 'boot'}:{boot}",
        "CODECELL_ZYGOTE": "zygote_under_test:main",
        "OPENBLAS_NUM_THREADS": "1",
    }
    done = subprocess.run([PYTHON, "main.py"], cwd=work, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _fresh(tmp_path: Path, code: str) -> Any:
    (tmp_path / "main.py").write_text(code)
    done = subprocess.run([PYTHON, tmp_path / "main.py"], env=ENV, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_hidden_modules_are_invisible(tmp_path: Path) -> None:
    """After preloading only a fresh interpreter's modules are in sys.modules."""
    out = _inside(tmp_path, ["json", "asyncio", "logging.config"], "")
    code = "import sys\nm = sorted(sys.modules)\nimport json\nprint(json.dumps(m))"
    assert out["visible"] == _fresh(tmp_path, code)


@pytest.mark.parametrize(
    "name", ["json", "logging", "asyncio", "decimal", "xml.etree.ElementTree", "concurrent.futures"]
)
def test_closure_is_what_an_import_brings(tmp_path: Path, name: str) -> None:
    """What comes back with a module is what importing it loads in a fresh interpreter, no more, no less."""
    preloaded = [
        "asyncio",
        "xml.etree.ElementTree",
        "logging.config",
        "decimal",
        "json.tool",
        "concurrent.futures.thread",
    ]
    out = _inside(tmp_path, preloaded, f"out['closure'] = sorted(stash._closure({name!r}))")
    code = f"import sys\nb = set(sys.modules)\nimport {name}\na = set(sys.modules) - b\n"
    code += "import json\nprint(json.dumps(sorted(a)))"
    assert out["closure"] == _fresh(tmp_path, code)


def test_given_modules_are_the_hidden_ones(tmp_path: Path) -> None:
    """An import gives the hidden module object, with its dependencies; its file is not executed again."""
    check = """
import sys
stash.go_live()
hidden = stash.modules["counted"]
import counted
out["same"] = counted is hidden
out["times"] = counted.times[:]
out["dependency"] = "colorsys" in sys.modules
del sys.modules["counted"]
import counted as again
out["again"] = again is hidden
"""
    counted = "import colorsys, os\ntimes = [os.getpid()]\n"
    out = _inside(tmp_path, ["counted"], _on_path(check, tmp_path), counted=counted)
    assert out["same"] is True
    assert out["dependency"] is True
    assert len(out["times"]) == 1
    assert out["again"] is False


def test_effects_come_with_their_module(tmp_path: Path) -> None:
    """Warning filters, loggers and exit functions appear when their module is imported, and not before."""
    check = """
import sys, _warnings
stash.go_live()
out["filters_before"] = len(_warnings.filters)
import logging, atexit
out["loggers_before"] = sorted(logging.root.manager.loggerDict)
out["exits_before"] = atexit._ncallbacks()
import noisy
out["filters_after"] = len(_warnings.filters)
out["loggers_after"] = sorted(logging.root.manager.loggerDict)
out["exits_after"] = atexit._ncallbacks()
"""
    noisy = "import warnings, logging, atexit\nwarnings.simplefilter('ignore', UserWarning)\n"
    noisy += "logging.getLogger('noisy.part')\natexit.register(print)\n"
    out = _inside(tmp_path, ["noisy"], _on_path(check, tmp_path), noisy=noisy)
    assert out["filters_after"] == out["filters_before"] + 1
    assert (out["loggers_before"], out["loggers_after"]) == ([], ["noisy", "noisy.part"])
    assert out["exits_after"] == out["exits_before"] + 1


def _on_path(check: str, tmp_path: Path) -> str:
    """The check with the modules under test on the path where they were found when they were preloaded."""
    line = f"import sys\nsys.path.append({str(tmp_path / 'boot')!r})\nstash.fresh.path.append(sys.path[-1])\n"
    return check.replace("stash.go_live()\n", "stash.go_live()\n" + line)


def test_missed_names_are_known(tmp_path: Path) -> None:
    """Optional dependencies that were looked for in vain are remembered; failed imports leave no edge."""
    check = "out['missed'] = 'no_such_optional' in stash.top_level\n"
    check += "out['needs'] = sorted(stash._closure('optional'))"
    optional = "try:\n    import no_such_optional\nexcept ImportError:\n    import colorsys\n"
    out = _inside(tmp_path, ["optional"], check, optional=optional)
    assert out["missed"] is True
    assert out["needs"] == ["colorsys", "optional"]


def test_a_thread_is_refused(tmp_path: Path) -> None:
    """A package that starts a thread on import cannot be preloaded: no fork would have the thread."""
    threaded = (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    with pytest.raises(AssertionError, match="import threaded started a thread"):
        _inside(tmp_path, ["threaded"], "", threaded=threaded)


def test_a_missing_package_is_an_error(tmp_path: Path) -> None:
    """A listed package that is not there stops the zygote with its ImportError."""
    with pytest.raises(AssertionError, match="No module named 'not_there'"):
        _inside(tmp_path, ["not_there"], "")


def test_path_decides(tmp_path: Path) -> None:
    """A directory put before the usual path wins; one put behind does not."""
    check = """
import os, sys
stash.go_live()
os.mkdir("first")
open("first/colorsys.py", "w").write("own = 1")
sys.path.append("first")
out["behind"] = sorted(stash._shadowed({"colorsys"}))
sys.path.insert(0, "first")
out["before"] = sorted(stash._shadowed({"colorsys", "wave"}))
import colorsys
out["own"] = colorsys.own
sys.path[:] = []
out["empty"] = sorted(stash._shadowed({"colorsys"}))
"""
    out = _inside(tmp_path, ["colorsys"], check)
    assert out["behind"] == []
    assert out["before"] == ["colorsys"]
    assert out["own"] == 1
    assert out["empty"] == ["colorsys"]

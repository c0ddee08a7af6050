"""How a zygote gets control before ``main.py`` runs: the last step of Python's own start-up.

A zygote is started as ``python3 main.py`` with this directory in PYTHONPATH and CODECELL_ZYGOTE naming
what to call (``module:function``). `site` imports this module after everything else of the start-up, and
before the interpreter opens ``main.py``. The zygote serves here; the child that becomes a program
*returns*, and the interpreter goes on as if it had just started: CPython itself then reads the file,
prints tracebacks, picks the exit code and finalises. No frame and no module of ours is left below.
"""

import os
import sys


def _boot() -> None:
    fresh = frozenset(sys.modules) - {"sitecustomize"}
    here = os.path.dirname(os.path.abspath(__file__))
    ours = set(os.environ.pop("PYTHONPATH").split(os.pathsep))
    entry = os.environ.pop("CODECELL_ZYGOTE")
    path = [directory for directory in sys.path if directory not in ours]
    known_directories = frozenset(sys.path_importer_cache) - ours
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(here))))

    from executor_service.guest import preload  # `fresh` comes first

    preload.begin(preload.FreshState(fresh, path, known_directories))
    name, _, function = entry.partition(":")
    __import__(name)
    getattr(sys.modules[name], function)()


try:
    _boot()
except BaseException:
    import traceback

    traceback.print_exc()  # `site` would show one line, and go on to run main.py
    os._exit(70)
# In a child that becomes a program: `site` takes this for "there is no sitecustomize", which is true.
raise ImportError("the zygote's child becomes a program", name="sitecustomize")

"""State inside well-known modules that a fork must not inherit, and how effects of an import are redone.

`hidden` runs once in the zygote, when modules are hidden; `given` and `EFFECTS` in the program, when it
imports one. Everything here works on modules that are handed in: nothing is imported at the top.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    Modules = dict[str, ModuleType]

_blas: list[tuple[str, Callable[[int], Any]]] = []  # (variable that sets the number, function that does)


def _module(modules: Modules, name: str) -> Any:
    """A hidden module, or one that every interpreter of the image has from its start."""
    return modules[name] if name in modules else sys.modules[name]


def hidden(modules: Modules, unregister: Callable[[Any], None]) -> None:
    """Forget what the zygote's own doings left in caches of modules, and find the BLAS libraries."""
    for module in modules.values():
        if "__warningregistry__" in vars(module):
            del module.__warningregistry__
    for name, attribute, value in (
        ("tempfile", "tempdir", None),
        ("tempfile", "_name_sequence", None),
        ("uuid", "_node", None),
        ("platform", "_uname_cache", None),
    ):
        if name in modules:
            setattr(modules[name], attribute, value)
    for name, cache in (("platform", "_platform_cache"), ("linecache", "cache")):
        if name in modules:
            getattr(modules[name], cache).clear()
    if "threading" in modules:
        threading: Any = modules["threading"]
        threading._counter = _module(modules, "itertools").count(1).__next__
    if "weakref" in modules:
        finalize: Any = modules["weakref"].finalize
        if not finalize._registry:
            finalize._registered_with_atexit = False
            unregister(finalize._exitfunc)
    _find_thread_setters(modules)


def _find_thread_setters(modules: Modules) -> None:
    ctypes: Any = modules.get("ctypes")
    if ctypes is None:
        return
    with open("/proc/self/maps") as file:
        paths = {line.split(maxsplit=5)[5].strip() for line in file if ".so" in line}
    for path in paths:
        base = os.path.basename(path)
        names: tuple[str, ...] = ()
        if "openblas" in base:
            stems = ("scipy_openblas_set_num_threads", "openblas_set_num_threads")
            names = tuple(stem + suffix for stem in stems for suffix in ("64_", ""))
        elif base.startswith("libgomp"):
            names = ("omp_set_num_threads",)
        library = ctypes.CDLL(path) if names else None
        for name in names:
            if hasattr(library, name):
                variable = "OMP_NUM_THREADS" if name.startswith("omp") else "OPENBLAS_NUM_THREADS"
                _blas.append((variable, getattr(library, name)))
                break


# -- when a program imports a hidden module --------------------------------------------------------


def given(name: str, module: ModuleType) -> None:
    """Bring what `name` holds up to date."""
    GIVEN[name](module)


def _logging(module: Any) -> None:
    import time

    whole = isinstance(module._startTime, int)  # 3.13 counts nanoseconds
    module._startTime = time.time_ns() if whole else time.time()


def _multiprocessing(module: Any) -> None:
    module.ORIGINAL_DIR = os.getcwd()
    module._current_process._config["authkey"] = module.AuthenticationString(os.urandom(32))


def _threading(module: Any) -> None:
    module._main_thread._set_native_id()


def _numpy_random(module: Any) -> None:
    module._rand.seed()


def _numpy(_module: Any) -> None:
    """Give the numeric libraries the threads that they would have taken when they were loaded."""
    for variable, set_number in _blas:
        text = os.environ.get(variable) or os.environ.get("OMP_NUM_THREADS") or ""
        number = int(text) if text.isdecimal() else len(os.sched_getaffinity(0))
        if number > 1:
            set_number(min(number, os.cpu_count() or 1))


def _matplotlib(module: Any) -> None:
    for function in (module.get_configdir, module.get_cachedir):
        clear = getattr(function, "cache_clear", None)
        if clear:
            clear()
    if os.environ.get("MPLBACKEND"):
        module.rcParams["backend"] = os.environ["MPLBACKEND"]


def _pyplot(module: Any) -> None:
    """It chose a backend while it was preloaded; what is asked for now is loaded with the first figure."""
    if os.environ.get("MPLBACKEND"):
        module._backend_mod = None


GIVEN: dict[str, Callable[[Any], None]] = {
    "logging": _logging,
    "multiprocessing.process": _multiprocessing,
    "threading": _threading,
    "numpy.random.mtrand": _numpy_random,
    "numpy": _numpy,
    "matplotlib": _matplotlib,
    "matplotlib.pyplot": _pyplot,
}


def _filter(_modules: Modules, value: tuple[Any, bool]) -> None:
    item, first = value
    warnings: Any = sys.modules["_warnings"]
    if item not in warnings.filters:
        warnings.filters.insert(0 if first else len(warnings.filters), item)
        getattr(warnings, "_filters_mutated", getattr(warnings, "_filters_mutated_lock_held", int))()


def _finder(_modules: Modules, value: tuple[Any, bool]) -> None:
    item, first = value
    sys.meta_path.insert(0 if first else len(sys.meta_path), item)


def _exit_function(_modules: Modules, value: tuple[Any, Any, Any]) -> None:
    import atexit

    function, args, kwargs = value
    atexit.register(function, *args, **kwargs)


def _logger(modules: Modules, value: tuple[str, Any]) -> None:
    """A library's logger; if the program asked for one of that name before, the two become one."""
    name, logger = value
    logging: Any = _module(modules, "logging")
    if not isinstance(logger, logging.Logger):
        return  # a place holder, made again as needed
    manager = logging.root.manager
    present = manager.loggerDict.get(name)
    if isinstance(present, logging.Logger):
        for handler in logger.handlers:
            present.addHandler(handler)
        if logger.level:
            present.setLevel(logger.level)
        logger.__dict__ = present.__dict__
        return
    manager.loggerDict[name] = logger
    logger._cache.clear()
    manager._fixupParents(logger)
    if present is not None:
        manager._fixupChildren(present, logger)


def _reducer(modules: Modules, value: tuple[Any, Any]) -> None:
    copyreg: Any = _module(modules, "copyreg")
    copyreg.dispatch_table[value[0]] = value[1]


EFFECTS: dict[str, Callable[[Modules, Any], None]] = {
    "filter": _filter,
    "finder": _finder,
    "atexit": _exit_function,
    "logger": _logger,
    "reducer": _reducer,
}

"""Imports done ahead of time in a zygote, then hidden, so that a fork of it looks freshly started.

`begin` (called by `boot/sitecustomize.py` as early as Python lets us) starts to record what every import
brings along: which modules it needs, and what it changes outside of itself. `preload` imports the image's
packages and hands everything over to a `Stash`, which hides it until a program imports it.

Only modules that a fresh interpreter has loaded anyway are imported at the top: all others would be taken
for the interpreter's own, and stay visible in every program.
"""

from __future__ import annotations

import builtins
import os
import sys

from executor_service.guest.stash import OURS, Effects, Stash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

_bootstrap: Any = sys.modules["_frozen_importlib"]
_recorder: Recorder | None = None


class FreshState:
    """What a freshly started interpreter has: names of modules, search path, directories it looked into."""

    def __init__(self, modules: frozenset[str], path: list[str], known_directories: frozenset[str]) -> None:
        self.modules = modules
        self.path = path
        self.known_directories = known_directories
        self.meta_path = list(sys.meta_path)
        self.filters = list(sys.modules["_warnings"].filters)
        self.environment = dict(os.environb)
        # Where the interpreter will look for its main file; nowhere, if it is past that.
        self.directory: str | None = os.getcwd()

    @classmethod
    def now(cls) -> FreshState:
        """As if this very moment were the end of start-up. No fork of this process can become a program."""
        state = cls(frozenset(sys.modules), list(sys.path), frozenset(sys.path_importer_cache))
        state.directory = None
        return state


class Recorder:
    """Watches imports: for each module what it needs and its effects on others. One thread only."""

    def __init__(self, fresh: FreshState) -> None:
        self.fresh = fresh
        self.needs: dict[str, dict[str, None]] = {}
        self.missed: set[str] = set()  # top-level names that nothing provided: optional dependencies
        self.effects = Effects(fresh.filters, fresh.meta_path)
        self._loading: list[str] = []
        self._known: set[str] = set()
        self._undo: list[Callable[[], None]] = []

    def start(self) -> None:
        """Wrap the four ways in: import statements, importlib, loading itself, and atexit."""
        for name in [name for name in sys.modules if name not in self.fresh.modules]:
            if name.partition(".")[0] not in (OURS, "sitecustomize"):
                del sys.modules[name]  # came with our first imports; comes again under our eyes when needed
        import atexit

        self._known = set(sys.modules)
        self._replace(builtins, "__import__", self._wrap_import)
        self._replace(_bootstrap, "_gcd_import", self._wrap_gcd_import)
        self._replace(_bootstrap, "_find_and_load_unlocked", self._wrap_load)
        self._replace(atexit, "register", lambda _: self._register)
        self._replace(atexit, "unregister", lambda _: self.effects.unregister)

    def stop(self) -> None:
        """Undo `start`."""
        while self._undo:
            self._undo.pop()()

    def _replace(self, owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        original = getattr(owner, name)
        setattr(owner, name, wrap(original))
        self._undo.append(lambda: setattr(owner, name, original))

    def _wrap_load(self, load: Any) -> Any:
        def find_and_load_unlocked(name: str, import_: Any) -> Any:
            self._need(name)
            self._loading.append(name)
            try:
                module = load(name, import_)
            except BaseException as error:
                self._loading.pop()
                self._failed(name, isinstance(error, ModuleNotFoundError) and error.name == name)
                raise
            self._known.add(name)
            for placed in sys.modules.keys() - self._known - set(self._loading):
                self._known.add(placed)  # a module that put others there itself
                self._need(placed)
            if type(getattr(module, "__loader__", None)).__name__ == "ExtensionFileLoader":
                self._need_all(_held(module))
            self._loading.pop()
            self.effects.settle(name)
            return module

        return find_and_load_unlocked

    def _wrap_import(self, import_: Any) -> Any:
        def recording(
            name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
        ) -> Any:
            module = import_(name, globals, locals, fromlist, level)
            if self._loading:
                full = _bootstrap._resolve_name(name, _package(globals), level) if level else name
                self._need(full)
                for word in fromlist or ():
                    self._need_all(f"{full}.{w}" for w in (_all(full) if word == "*" else (word,)))
            return module

        return recording

    def _wrap_gcd_import(self, import_: Any) -> Any:
        def gcd_import(name: str, package: str | None = None, level: int = 0) -> Any:
            module = import_(name, package, level)
            self._need(_bootstrap._resolve_name(name, package, level) if level else name)
            return module

        return gcd_import

    def _register(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.effects.register(self._loading[-1] if self._loading else "", function, args, kwargs)
        return function

    def _need(self, name: str) -> None:
        if self._loading and self._loading[-1] != name:
            self.needs.setdefault(self._loading[-1], {})[name] = None

    def _need_all(self, names: Iterable[str]) -> None:
        for name in names:
            if name in sys.modules:
                self._need(name)

    def _failed(self, name: str, missing: bool) -> None:
        """What a failed import left behind belongs to whoever tried it."""
        if missing and "." not in name:
            self.missed.add(name)
        for brought in self.needs.pop(name, {}):
            self._need(brought)
        self.effects.settle(self._loading[-1] if self._loading else "")


def _package(globals: Any) -> str:
    return str(globals.get("__package__") or _bootstrap._calc___package__(globals))


def _held(module: Any) -> Iterable[str]:
    """Modules that a compiled one holds something of: it may import past every hook."""
    for value in list(vars(module).values()):
        name = value.__name__ if isinstance(value, type(sys)) else getattr(value, "__module__", None)
        if isinstance(name, str):
            yield name


def _all(name: str) -> Sequence[str]:
    return getattr(sys.modules.get(name), "__all__", ())


def begin(fresh: FreshState) -> None:
    """Start to record; call before anything is imported that a fresh interpreter would not have."""
    global _recorder
    _recorder = Recorder(fresh)
    _recorder.start()


def preload(modules: Sequence[str]) -> Stash:
    """Import `modules`, then hide them and all that came with them.

    Raises:
        ImportError: one of them is not there.
        RuntimeError: an import left a thread running, which no fork would have.
    """
    if _recorder is None:
        begin(FreshState.now())
    assert _recorder is not None
    import _contextvars

    context = _contextvars.copy_context()  # what imports set in it, a fresh main thread has not
    try:
        for name in modules:
            before = _threads()
            context.run(_bootstrap._gcd_import, name)
            if _threads() > max(before, 1):
                raise RuntimeError(f"import {name} started a thread; set OPENBLAS_NUM_THREADS=1 and the like")
    finally:
        _recorder.stop()
    return Stash(_recorder.fresh, _recorder.needs, _recorder.missed, _recorder.effects, modules)


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))

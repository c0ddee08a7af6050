"""Modules that are loaded but hidden, until a program imports them.

`Stash` takes them out of ``sys.modules`` and out of their parents' attributes, and stands behind the import
system's own loading function: a first import gives back the hidden module with everything that a real import
of it would have brought (its dependencies, warning filters, loggers, exit functions), provided that the
search path still leads to the same file. A program's own ``pandas.py`` wins. A module is given back once:
after ``del sys.modules[...]`` or `importlib.reload` Python's ordinary machinery does the work.

Not visible: `sys.meta_path`, `importlib.util.find_spec`, `pkgutil` and `importlib.reload` are untouched.
What is recorded about imports, and why nothing is imported here at the top: see `preload`.
"""

from __future__ import annotations

import os
import sys

from executor_service.guest import freshen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType
    from typing import Any

    from executor_service.guest.preload import FreshState

_bootstrap: Any = sys.modules["_frozen_importlib"]
_bootstrap_external: Any = sys.modules["_frozen_importlib_external"]
_warnings: Any = sys.modules["_warnings"]
OURS = "executor_service"


def registries(modules: dict[str, ModuleType]) -> list[tuple[str, dict[Any, Any]]]:
    """Dictionaries of loaded modules in which other modules register what is theirs."""
    root: Any = getattr(modules.get("logging"), "root", None)
    copyreg: Any = modules.get("copyreg")
    found = [("logger", root.manager.loggerDict)] if root is not None else []
    return found + ([("reducer", copyreg.dispatch_table)] if hasattr(copyreg, "dispatch_table") else [])


class Effects:
    """What importing a module changed outside of it: filters, finders, loggers, reducers, exit functions."""

    def __init__(self, filters: list[Any], meta_path: list[Any]) -> None:
        self._seen = {id(item): item for item in (*filters, *meta_path)}
        # What was registered before anything was preloaded is any interpreter's, and stays.
        self._registered = {kind: dict(registry) for kind, registry in registries(sys.modules)}
        self.of: dict[str, list[tuple[str, Any]]] = {}

    def settle(self, name: str) -> None:
        """The module `name` is loaded: what is new is its doing (its dependencies have settled before)."""
        for kind, items in (("filter", _warnings.filters), ("finder", sys.meta_path)):
            new = [item for item in items if id(item) not in self._seen]
            for item in reversed(new):
                self._seen[id(item)] = item
                self._add(name, kind, (item, items[0] is item or items[-1] is not item))
        for kind, registry in registries(sys.modules):
            seen = self._registered.setdefault(kind, {})
            for key, value in registry.items():
                if seen.get(key) is not value:  # a logger's place holder may become a logger
                    seen[key] = value
                    self._add(name, kind, (key, value))

    def register(self, name: str, function: Any, args: Any, kwargs: Any) -> None:
        """An exit function. The one of `weakref.finalize` serves whoever makes such an object first."""
        owner = "weakref" if getattr(function, "__module__", None) == "weakref" else name
        self._add(owner, "atexit", (function, args, kwargs))

    def unregister(self, function: Any) -> None:
        """As `atexit.unregister`."""
        for items in self.of.values():
            items[:] = [item for item in items if item[0] != "atexit" or item[1][0] != function]

    def _add(self, name: str, kind: str, value: Any) -> None:
        self.of.setdefault(name, []).append((kind, value))


class Stash:
    """The hidden modules of a zygote, and their way back."""

    def __init__(
        self,
        fresh: FreshState,
        needs: dict[str, dict[str, None]],
        missed: set[str],
        effects: Effects,
        listed: Iterable[str],
    ) -> None:
        self.fresh = fresh
        self.modules: dict[str, ModuleType] = {
            name: module for name, module in sys.modules.items() if name not in fresh.modules
        }
        needed_until_the_end = ("sys", "builtins", "__main__")
        self._kept = {
            name: module for name, module in sys.modules.items() if name not in needed_until_the_end
        }
        self._needs = needs
        self._effects = effects.of
        self._pending = dict(self.modules)
        self._ours = [name for name in self.modules if name.partition(".")[0] == OURS]
        self._live = self._shown = False
        self._listings: dict[str, tuple[int, set[str]]] = {}
        often = [name for name in (*listed, *self._packages()) if name in self.modules]
        self._closures = {name: self._closure(name) for name in often}
        self._closure_tops = {name: set(self._tops(found)) for name, found in self._closures.items()}
        self._attributes = self._parents_attributes()
        self.top_level = frozenset(self._tops(self.modules)) | missed
        freshen.hidden(self.modules, effects.unregister)
        self._install()
        self.hide()

    # -- hiding -----------------------------------------------------------------------------------

    def hide(self) -> None:
        """Leave in sight only what a fresh interpreter shows."""
        for name in [name for name in sys.modules if name not in self.fresh.modules]:
            del sys.modules[name]
        for parent, child, _ in self._attributes.values():
            if child in vars(parent):
                delattr(parent, child)
        registered = dict(registries({**self.modules, **sys.modules}))
        for kinds in self._effects.values():
            for kind, value in kinds:
                if kind in registered:
                    registered[kind].pop(value[0], None)
        sys.path[:] = self.fresh.path
        sys.meta_path[:] = self.fresh.meta_path
        for entry in sys.path_importer_cache.keys() - self.fresh.known_directories:
            del sys.path_importer_cache[entry]
        _warnings.filters[:] = self.fresh.filters
        getattr(_warnings, "_filters_mutated", getattr(_warnings, "_filters_mutated_lock_held", int))()
        _warnings._onceregistry.clear()
        self._shown = False

    def go_live(self) -> None:
        """In the child that becomes a program: from now on a module that is imported is the program's own.

        Before, the zygote's code may import what it likes; afterwards nothing of ours can be found.
        """
        if self._shown:
            self.hide()
        for name in self._ours:
            self._pending.pop(name, None)
        self._live = True

    def go_live_as_kernel(self) -> None:
        """In the child that becomes a kernel: the same, but what the kernel was built from stays in sight."""
        self._live = True

    def withdraw(self) -> None:
        """At the very end of a program: take given modules and the interpreter's own out of sight, so that
        nobody spends time on clearing them. What the program itself made is finalised as usual.
        """
        # Not over `_kept`: to look at all that a zygote has would copy hundreds of its pages.
        for name, module in list(sys.modules.items()):
            if name not in self._pending and self._kept.get(name) is module:
                del sys.modules[name]

    def _install(self) -> None:
        original = _bootstrap._find_and_load_unlocked
        take = self.take

        def _find_and_load_unlocked(name: str, import_: Any) -> Any:
            module = take(name)
            return original(name, import_) if module is None else module

        # Tracebacks and warnings leave out frames of the import system, which they know by file name.
        _find_and_load_unlocked.__code__ = _find_and_load_unlocked.__code__.replace(
            co_filename=original.__code__.co_filename, co_firstlineno=original.__code__.co_firstlineno
        )
        _bootstrap._find_and_load_unlocked = _find_and_load_unlocked

    # -- giving back ------------------------------------------------------------------------------

    def take(self, name: str) -> ModuleType | None:
        """The module, if it is hidden and an ordinary import would load the same file. Runs no import.

        Safe with threads: all that comes along appears at once, before it stops being hidden.
        """
        if name not in self._pending:
            return sys.modules.get(name)  # another thread was faster
        closure = self._closures.get(name) or self._closure(name)
        if self._live:
            path: Any = sys.path
            finders: Any = sys.meta_path
            if not isinstance(path, list) or not isinstance(finders, list):
                return None  # the program broke them, or the interpreter is going
            closure = self._allowed(name, closure)
            if name not in closure:
                return None
        sys.modules.update({n: m for n, m in closure.items() if n in self._pending})
        for child in closure.keys() & self._attributes.keys():
            parent, attribute, module = self._attributes[child]
            if attribute not in vars(parent):
                setattr(parent, attribute, module)
        if self._live:
            self._given(closure)
        else:
            self._shown = True
        return self.modules[name]

    def _allowed(self, name: str, closure: dict[str, ModuleType]) -> dict[str, ModuleType]:
        """What of `closure` may be given; without `name` itself if that must be loaded the ordinary way."""
        top = name.partition(".")[0]
        blocked = self._shadowed(self._closure_tops.get(name) or set(self._tops(closure)))
        replaced = {n: sys.modules.get(n) for n in closure.keys() & sys.modules.keys()}
        replaced = {n: module for n, module in replaced.items() if module is not closure[n]}
        if not blocked and not replaced:
            return closure
        hard = any(m is None or n.partition(".")[0] == top for n, m in replaced.items())
        if top in blocked or hard or (replaced and not self._once_only(top)):
            return {}
        return {n: m for n, m in closure.items() if n not in replaced and n.partition(".")[0] not in blocked}

    def _given(self, closure: dict[str, ModuleType]) -> None:
        # Removing comes after showing, and `pop` is atomic: of two threads one applies each effect.
        for name in closure.keys() & self._pending.keys():
            self._pending.pop(name, None)
        for name in [name for name in self._effects if name in closure]:
            for kind, value in self._effects.pop(name, ()):
                freshen.EFFECTS[kind](self.modules, value)
        for name in closure.keys() & freshen.GIVEN.keys():
            module = self.modules[name]
            if sys.modules.get(name) is module and name not in self._pending:
                freshen.given(name, module)

    # -- where an ordinary import would look ------------------------------------------------------

    def shadowed_by(self, directory: str) -> bool:
        """Whether `directory`, put first on the path, changes what a hidden module would be."""
        self._listings.clear()  # what a moment ago was listed may have been changed in the same moment
        return bool(self._provided(directory, self.top_level))

    def _shadowed(self, tops: set[str]) -> set[str]:
        """Those of `tops` that the path, as it stands, no longer leads to."""
        usual = self.fresh.meta_path
        known = self.fresh.path
        if sys.meta_path[: len(usual)] != usual or [e for e in sys.path if e in known] != known:
            return {top for top in tops if not self._leads_to(top)}
        found: set[str] = set()
        passed = 0
        for entry in sys.path:
            if passed == len(self.fresh.path):
                break
            if entry in known:
                passed += 1
            elif isinstance(entry, str):
                found |= self._provided(entry, tops)
        return found

    def _leads_to(self, top: str) -> bool:
        ours = self.modules[top].__spec__
        spec = _bootstrap._find_spec(top, None)
        return spec is not None and ours is not None and spec.origin == ours.origin

    def _provided(self, entry: str, tops: set[str] | frozenset[str]) -> set[str]:
        """Those of `tops` that a directory (or archive) on the path would provide."""
        try:
            directory = os.path.abspath(entry)
            modified = os.stat(directory).st_mtime_ns
            stamp, stems = self._listings.get(directory, (0, set()))
            if stamp != modified:
                stems = {file.partition(".")[0] for file in os.listdir(directory)}
                self._listings[directory] = (modified, stems)
            likely = tops & stems
        except NotADirectoryError:
            likely = tops
        except (OSError, ValueError):
            return set()
        if not likely:
            return set()
        finder = _bootstrap_external.PathFinder._path_importer_cache(entry)
        specs = ((top, finder.find_spec(top)) for top in likely) if finder else ()
        return {top for top, spec in specs if spec is not None and spec.loader is not None}

    # -- what belongs together --------------------------------------------------------------------

    def _closure(self, name: str) -> dict[str, ModuleType]:
        """`name` and every hidden module that importing it brings, in the order in which they were loaded."""
        found = {name}
        todo = [name]
        while todo:
            current = todo.pop()
            parent = current.rpartition(".")[0]
            for needed in (*self._needs.get(current, ()), *((parent,) if parent else ())):
                if needed not in found and needed in self.modules:
                    found.add(needed)
                    todo.append(needed)
        return (
            {n: m for n, m in self.modules.items() if n in found}
            if len(found) > 1
            else {name: self.modules[name]}
        )

    def _packages(self) -> list[str]:
        return [n for n, m in self.modules.items() if "." not in n and hasattr(m, "__path__")]

    def _tops(self, names: Iterable[str]) -> Iterable[str]:
        """Top-level names among `names` that the path leads to; built-in and frozen ones stay."""
        for name in names:
            spec = getattr(self.modules[name], "__spec__", None) if "." not in name else None
            if spec is not None and spec.has_location:
                yield name

    def _once_only(self, top: str) -> bool:
        """Whether a package has extension modules of its own, which may refuse to be loaded a second time."""
        suffixes = tuple(_bootstrap_external._get_supported_file_loaders()[0][1])
        return any(
            name.partition(".")[0] == top and (getattr(module, "__file__", None) or "").endswith(suffixes)
            for name, module in self.modules.items()
        )

    def _parents_attributes(self) -> dict[str, tuple[Any, str, ModuleType]]:
        """Submodules that importing their package alone does not bring: not its attributes until imported."""
        found = {}
        for name, module in self.modules.items():
            parent_name, _, child = name.rpartition(".")
            parent = self.modules.get(parent_name) or (parent_name and sys.modules.get(parent_name))
            if not parent or vars(parent).get(child) is not module:
                continue
            known = parent_name in self.modules
            if not known or name not in (self._closures.get(parent_name) or self._closure(parent_name)):
                found[name] = (parent, child, module)
        return found

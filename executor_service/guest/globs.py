"""Globs over workspace paths: `*`, `?` and `[...]` within a directory, `**` across directories.

`**` counts only as a whole part (`out/**/*.png`, `out/**`); a trailing `/` means all below. As in a
shell, a wildcard does not match a leading dot. Matching goes part by part and never backtracks,
so no name that a program chose can make it slow.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from executor_service.guest.fspaths import Refusal, show

MAX_GLOBS = 100
MAX_LENGTH = 1024

State = frozenset[tuple[int, int]]  # (which glob, how many of its parts are matched)


@dataclass(frozen=True)
class _Part:
    text: str
    pattern: re.Pattern[str] | None  # None: the text itself

    def matches(self, name: str) -> bool:
        if self.pattern is None:
            return name == self.text
        if name.startswith(".") and not self.text.startswith("."):
            return False
        return self.pattern.match(name) is not None


class Globs:
    """A set of globs as one machine: `start`, a `step` for each part of a path, `accepts`.

    A state that is empty can match nothing below, so a walk need not enter there.

    Raises:
        Refusal: `invalid_path` for a glob that is absolute, empty, too long, or has `..` or NUL.
    """

    def __init__(self, globs: Sequence[object]) -> None:
        if len(globs) > MAX_GLOBS:
            raise Refusal("invalid_path", f"at most {MAX_GLOBS} globs are allowed")
        self._globs = [_parts(glob) for glob in globs]

    @property
    def start(self) -> State:
        return self._closed({(n, 0) for n in range(len(self._globs))})

    def step(self, state: State, name: str) -> State:
        """The state below `name`, one part further down than `state`."""
        after = set()
        for glob, done in state:
            parts = self._globs[glob]
            if done == len(parts):
                continue
            if parts[done].text == "**":
                if not name.startswith("."):
                    after.add((glob, done))
            elif parts[done].matches(name):
                after.add((glob, done + 1))
        return self._closed(after)

    def accepts(self, state: State) -> bool:
        """Whether a path that led to `state` is matched by one of the globs."""
        return any(done == len(self._globs[glob]) for glob, done in state)

    def matches(self, path: str) -> bool:
        """Whether one of the globs matches the relative `path`."""
        state = self.start
        for name in path.split("/"):
            state = self.step(state, name)
        return self.accepts(state)

    def _closed(self, state: set[tuple[int, int]]) -> State:
        """`state` and what follows from `**` standing for no directory at all."""
        todo = list(state)
        while todo:
            glob, done = todo.pop()
            parts = self._globs[glob]
            if done < len(parts) and parts[done].text == "**" and (glob, done + 1) not in state:
                state.add((glob, done + 1))
                todo.append((glob, done + 1))
        return frozenset(state)


def _parts(glob: object) -> list[_Part]:
    if not isinstance(glob, str) or not 0 < len(glob) <= MAX_LENGTH or "\0" in glob:
        raise Refusal("invalid_path", f"a glob must be text of 1 to {MAX_LENGTH} characters without NUL")
    texts = [text for text in glob.split("/") if text not in ("", ".")]
    if glob.startswith("/") or ".." in texts or not texts:
        raise Refusal("invalid_path", f"{show(glob)}: a glob must be relative to the workspace, without '..'")
    if glob.endswith("/"):
        texts.append("**")
    if texts[-1] == "**":
        texts.append("*")  # what is below, not the directory itself
    wild = re.compile(r"[*?[]")
    # fnmatch's translation uses atomic groups (by look-ahead): linear, whatever the name.
    return [_Part(t, re.compile(fnmatch.translate(t)) if wild.search(t) else None) for t in texts]

"""Operations that can be asked for again: those that run, and for a while those that have ended."""

from __future__ import annotations

from collections.abc import Iterator

from executor_service.sessions.operation import Operation


class Kept:
    """Bounded in time, number and bytes; the oldest that ended goes first. What runs is never dropped."""

    def __init__(self, *, seconds: float, count: int, size: int) -> None:
        self._seconds = seconds
        self._count = count
        self._size = size
        self._operations: dict[str, Operation] = {}

    def __iter__(self) -> Iterator[Operation]:
        """Oldest first."""
        return iter(list(self._operations.values()))

    def __len__(self) -> int:
        return len(self._operations)

    def running(self) -> list[Operation]:
        """Those that have not ended."""
        return [each for each in self if each.state == "running"]

    def add(self, operation: Operation) -> None:
        """Remember one."""
        self._operations[operation.id] = operation

    def drop(self, operation: Operation) -> None:
        """Forget one."""
        self._operations.pop(operation.id, None)

    def get(self, operation_id: str, now: float) -> Operation | None:
        """The operation with this id, if it is still kept."""
        self.trim(now)
        return self._operations.get(operation_id)

    def trim(self, now: float) -> None:
        """Forget what is too old, and the oldest of what is too much."""
        ended = [each for each in self if each.state == "done"]
        ended.sort(key=lambda each: each.ended_at or 0.0)
        size = sum(each.journal.size for each in ended)
        for index, each in enumerate(ended):
            too_old = each.ended_at is None or now - each.ended_at >= self._seconds
            if not (too_old or size > self._size or len(ended) - index > self._count):
                return
            size -= each.journal.size
            self.drop(each)

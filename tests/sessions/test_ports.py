"""The real guest's kernel, over a fake one: its variables, and what is left when they cannot be set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Literal

import pytest

from executor_service.errors import SandboxFailed
from executor_service.sandboxes.kernel import Kernel, KernelDone
from executor_service.sessions import ports
from tests.fakes import SPEC, FakeBackend, FakeSandbox, until


class FakeKernel:
    """Ends its executions with `status`; with none it does not."""

    def __init__(self, status: Literal["ok", "error", "died"] | None) -> None:
        self.status = status
        self.codes: list[str] = []
        self.closed = False

    async def execute(self, code: str, **_: object) -> AsyncGenerator[KernelDone, None]:
        self.codes.append(code)
        if self.status is None:
            await asyncio.Event().wait()
        else:
            yield KernelDone(status=self.status)

    async def close(self) -> None:
        self.closed = True


async def connected(monkeypatch: pytest.MonkeyPatch, kernel: FakeKernel, **env: str) -> Any:
    """What `Guest.kernel` gives when `kernel` is what it connects to."""

    async def connect(*_: object, **__: object) -> FakeKernel:
        return kernel

    monkeypatch.setattr(Kernel, "connect", connect)
    return await ports.Guest().kernel(FakeSandbox(FakeBackend(), 1, SPEC), fresh=False, env=env)


async def test_without_variables_nothing_is_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would cost milliseconds."""
    kernel = FakeKernel("ok")
    assert await connected(monkeypatch, kernel) is kernel
    assert kernel.codes == []


async def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """One execution; the time zone is set only when it is asked for."""
    kernel = FakeKernel("ok")
    assert await connected(monkeypatch, kernel, A="b") is kernel
    assert (len(kernel.codes), kernel.closed) == (1, False)
    assert "tzset" not in kernel.codes[0]
    await connected(monkeypatch, kernel, TZ="UTC")
    assert "tzset" in kernel.codes[1]


@pytest.mark.parametrize("status", ["error", "died"])
async def test_variables_that_cannot_be_set(
    monkeypatch: pytest.MonkeyPatch, status: Literal["error", "died"]
) -> None:
    """A failure, and nothing is left."""
    kernel = FakeKernel(status)
    with pytest.raises(SandboxFailed, match="variables"):
        await connected(monkeypatch, kernel, A="b")
    assert kernel.closed


async def test_a_kernel_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for ever."""
    monkeypatch.setattr(ports, "ENV_TIME", 0.01)
    kernel = FakeKernel(None)
    with pytest.raises(SandboxFailed, match="in time"):
        await connected(monkeypatch, kernel, A="b")
    assert kernel.closed


async def test_a_caller_that_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left."""
    kernel = FakeKernel(None)
    task = asyncio.create_task(connected(monkeypatch, kernel, A="b"))
    await until(lambda: kernel.codes)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert kernel.closed

"""Fixtures of the client's tests: a fake service on a real socket, clients of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent_client.client import AsyncExecutorClient, ExecutorClient
from tests.agent_client.fake_service import KEY, FakeService, fake_service


@pytest.fixture(autouse=True)
def _no_service_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CODECELL_URL", "CODECELL_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake() -> Iterator[FakeService]:
    """A running fake service."""
    with fake_service() as running:
        yield running


@pytest.fixture
def client(fake: FakeService) -> Iterator[ExecutorClient]:
    """A blocking client of it."""
    with ExecutorClient(fake.url, KEY) as made:
        yield made


@pytest.fixture
def async_client(fake: FakeService) -> AsyncExecutorClient:
    """An async client of it."""
    return AsyncExecutorClient(fake.url, KEY)

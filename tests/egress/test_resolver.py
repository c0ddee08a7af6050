"""Looking names up: bounded in time and in number, whatever a name server does."""

from __future__ import annotations

import asyncio
import ipaddress
import threading

import pytest

from executor_service.egress import resolver as resolver_module
from executor_service.egress.resolver import Resolver


async def test_the_systems_names() -> None:
    """A name has the addresses that the system says; one that is not there has none."""
    resolver, turn = Resolver(), asyncio.Semaphore(1)
    assert ipaddress.ip_address("127.0.0.1") in await resolver.addresses("localhost", turn=turn, seconds=30)
    assert await resolver.addresses("nosuch.invalid", turn=turn, seconds=60) == []


async def test_a_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """We tire of waiting, but a sandbox's turn comes back only when its lookup has ended."""
    answer = threading.Event()

    def look_up(name: str) -> list[object]:
        if name == "slow.test":
            answer.wait(60)
        return []

    monkeypatch.setattr(resolver_module, "_look_up", look_up)
    resolver, hostile, honest = Resolver(), asyncio.Semaphore(2), asyncio.Semaphore(2)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await resolver.addresses("slow.test", turn=hostile, seconds=0.1)
    before = [thread for thread in threading.enumerate() if thread.name == "egress-dns"]
    assert len(before) == 2
    assert all(thread.daemon for thread in before)
    assert await resolver.addresses("fast.test", turn=honest, seconds=5) == []
    answer.set()
    assert await resolver.addresses("fast.test", turn=hostile, seconds=5) == []
    assert not honest.locked()

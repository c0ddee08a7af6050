"""Which addresses are this host's, as its kernel says."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from executor_service.egress import own


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "127.200.3.4", "::1", "0.0.0.0", "255.255.255.255", "224.0.0.1"]
)
def test_own(text: str) -> None:
    """Loopback, the unspecified address, broadcast and multicast all stay here or reach more than one."""
    assert own.is_own(ipaddress.ip_address(text))


def test_addresses_of_interfaces() -> None:
    """The address that this host would send from is its own; one beside it is not."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("198.51.100.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no route")
        address = ipaddress.ip_address(sock.getsockname()[0])
    assert own.is_own(address)
    assert own._bindable(address)
    assert not own.is_own(ipaddress.ip_address("198.51.100.1"))
    assert not own._bindable(ipaddress.ip_address("198.51.100.1"))


def test_without_an_answer_what_can_be_bound_is_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel tells no routes, an address is own exactly if it can be bound."""
    monkeypatch.setattr(own, "_route_type", lambda _: None)
    assert own.is_own(ipaddress.ip_address("127.0.0.1"))
    assert not own.is_own(ipaddress.ip_address("198.51.100.1"))

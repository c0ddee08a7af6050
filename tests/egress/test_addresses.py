"""Addresses that are public, and all that are not."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor_service.egress.addresses import plain, why_not_public, within

PUBLIC = [
    "1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.255.255", "172.32.0.0", "100.63.255.255",
    "100.128.0.0", "192.0.1.1",
    "223.255.255.255", "169.253.255.255", "168.63.129.15", "2606:4700:4700::1111",
    "2001:4860:4860::8888", "2a00::1",
    "::ffff:1.1.1.1", "64:ff9b::101:101",
]  # fmt: skip
NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.255",
    "169.254.169.254",
    "169.254.170.2", "168.63.129.16", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1",
    "255.255.255.255",
    "::", "::1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "3fff::1",
    "100::1", "5f00::1",
    "4000::1", "::1.1.1.1", "::127.0.0.1", "::ffff:0:1.1.1.1", "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2002:7f00:1::1", "2002:101:101::1", "64:ff9b:1::101:101", "64:ff9b:1::7f00:1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b::a00:1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
    "::ffff:10.0.0.1", "::ffff:0.0.0.0",
    "2606:4700::5efe:7f00:1", "2606:4700::200:5efe:7f00:1",
]  # fmt: skip


@pytest.mark.parametrize("text", PUBLIC)
def test_public(text: str) -> None:
    """An address of the internet passes, also in a form that carries it."""
    assert why_not_public(ipaddress.ip_address(text)) is None


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_not_public(text: str) -> None:
    """Special addresses are refused, and every form that carries or tunnels to one."""
    assert why_not_public(ipaddress.ip_address(text))


@given(st.ip_addresses())
def test_never_less_strict_than_python(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """What Python's own lists refuse is refused, but for what carries a public IPv4 address."""
    carries = isinstance(address, ipaddress.IPv6Address) and (
        address.ipv4_mapped or address in ipaddress.ip_network("64:ff9b::/96")
    )
    if why_not_public(address) is None and not carries:
        assert address.is_global
        assert not address.is_multicast


@given(st.ip_addresses(v=4))
def test_carried_addresses_count_as_themselves(address: ipaddress.IPv4Address) -> None:
    """The mapped and the NAT64 form of an IPv4 address are judged as it is."""
    mapped = ipaddress.IPv6Address(0xFFFF << 32 | int(address))
    nat64 = ipaddress.IPv6Address(0x64FF9B << 96 | int(address))
    assert plain(mapped) == address
    assert why_not_public(mapped) == why_not_public(nat64) == why_not_public(address)


def test_within() -> None:
    """An operator's networks hold an address in its mapped form too, and nothing of the other version."""
    networks = [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("fd00::/8")]
    assert within(ipaddress.ip_address("127.1.2.3"), networks)
    assert within(ipaddress.ip_address("::ffff:127.0.0.1"), networks)
    assert within(ipaddress.ip_address("fd00::1"), networks)
    assert not within(ipaddress.ip_address("::1"), networks)
    assert not within(ipaddress.ip_address("64:ff9b::7f00:1"), networks)

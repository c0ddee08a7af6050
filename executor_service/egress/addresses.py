"""Which addresses are the public internet's. Pure: a list of our own and Python's, whichever is stricter.

Source: IANA's special-purpose address registries (RFC 6890 and its updates). An address that carries an IPv4
address inside (mapped, NAT64) is judged by that one; tunnels whose other end nobody here can judge (6to4,
Teredo, ISATAP, local-use NAT64) are refused as such.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from executor_service.egress.names import Address

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_V4 = {
    "0.0.0.0/8": "this network",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "carrier-grade NAT",
    "127.0.0.0/8": "loopback",
    "168.63.129.16/32": "a cloud host's own service",  # a public number that only virtual machines reach
    "169.254.0.0/16": "link-local",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "protocol assignments",
    "192.0.2.0/24": "documentation",
    "192.88.99.0/24": "6to4 relay",
    "192.168.0.0/16": "private",
    "198.18.0.0/15": "benchmarking",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
}
_V6 = {
    "64:ff9b:1::/48": "local-use NAT64",
    "2001::/23": "protocol assignments, Teredo among them",
    "2001:db8::/32": "documentation",
    "2002::/16": "6to4",
    "3fff::/20": "documentation",
    "fc00::/7": "unique local",
    "fe80::/10": "link-local",
    "ff00::/8": "multicast",
    "::1/128": "loopback",
}
_SPECIAL: tuple[tuple[Network, str], ...] = tuple(
    (ipaddress.ip_network(text), why) for text, why in {**_V4, **_V6}.items()
)
_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that was ever assigned for global use
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})


def plain(address: Address) -> Address:
    """The IPv4 address that an IPv4-mapped one means; any other as it is."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def carried(address: Address) -> Address:
    """The IPv4 address that a NAT64 one leads to; any other as `plain` has it."""
    address = plain(address)
    if isinstance(address, ipaddress.IPv6Address) and address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def why_not_public(address: Address) -> str | None:
    """Why an address is not the public internet's; None if it is."""
    address = carried(address)
    for network, why in _SPECIAL:
        if address.version == network.version and address in network:
            return why
    if isinstance(address, ipaddress.IPv6Address):
        if address not in _UNICAST:
            return "not global unicast"
        if int(address) >> 32 & 0xFFFFFFFF in _ISATAP:
            return "ISATAP"
    return None if address.is_global else "not globally routable"


def within(address: Address, networks: Iterable[Network]) -> bool:
    """Whether one of `networks` holds the address, itself or as the IPv4 address that it maps."""
    address = plain(address)
    return any(address.version == network.version and address in network for network in networks)

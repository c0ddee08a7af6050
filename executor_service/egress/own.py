"""Whether an address is this host's own, as the kernel's routing table says: asked anew each time."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct

from executor_service.egress.names import Address

_RTM_GETROUTE, _REQUEST, _RTA_DST, _RTN_LOCAL = 26, 1, 1, 2
_HEADER, _ROUTE = struct.Struct("=IHHII"), struct.Struct("=BBBBBBBBI")
_RTN_UNICAST = 1
_ERROR = 2


def is_own(address: Address) -> bool:
    """Whether a packet to `address` would stay on this host, or reach more than one. Does not block.

    Where the kernel does not answer, an address counts as own exactly if it can be bound.
    """
    kind = _route_type(address)
    return _bindable(address) if kind is None else kind not in (0, _RTN_UNICAST)


def _route_type(address: Address) -> int | None:
    """The type of the route to an address (rtnetlink(7)); 0 if there is none, None if that is not known."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = _ROUTE.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    body += struct.pack("=HH", 4 + len(address.packed), _RTA_DST) + address.packed
    with contextlib.suppress(OSError, struct.error):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
            sock.setblocking(False)  # the kernel answers before send returns
            sock.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, _REQUEST, 1, 0) + body)
            answer = sock.recv(8192)
        if _HEADER.unpack_from(answer)[1] == _ERROR:
            return 0
        return int(_ROUTE.unpack_from(answer, _HEADER.size)[7])
    return None


def _bindable(address: Address) -> bool:
    family = socket.AF_INET if isinstance(address, ipaddress.IPv4Address) else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((str(address), 0))
        except OSError:
            return False
    return True

"""Hosts as programs and rules write them, in one normal form, or refused. Pure.

Only two things are hosts: a DNS name in its ASCII form, and an IP address in its one canonical notation.
Whatever else a C library would take for an address (octal, hexadecimal, a single integer, fewer than four
parts, zone ids, full-width digits) is no host here: a rule and a connection never mean different things.
"""

from __future__ import annotations

import ipaddress
import re

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Host = str | Address
"""A DNS name, lower case and without the root's dot, or an address."""

MAX_NAME = 253
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r"[1-9][0-9]{0,4}")


class BadHost(ValueError):
    """No host; the message says why, and holds nothing of what was written."""


def parse_host(text: str) -> Host:
    """A host: a name, a dotted IPv4 address, or an IPv6 address in brackets.

    Raises:
        BadHost: none of these.
    """
    if text.startswith("["):
        return _bracketed(text)
    name = text.lower().removesuffix(".")
    if not text.isascii():
        raise BadHost("a host is written in ASCII (xn--...)")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):  # what ends in a number is an address: WHATWG URL, "ends in a number"
        return _dotted(name)
    if not name or len(name) > MAX_NAME or not all(map(_LABEL.fullmatch, name.split("."))):
        raise BadHost("no host name")
    return name


def split_authority(text: str) -> tuple[Host, int | None]:
    """`host` or `host:port`, port 1 to 65535 in plain digits.

    Raises:
        BadHost: neither.
    """
    at = text.rfind(":")
    if at < 0 or text.endswith("]"):
        return parse_host(text), None
    return parse_host(text[:at]), parse_port(text[at + 1 :])


def parse_port(text: str) -> int:
    """Raises BadHost: no port."""
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise BadHost("no port number")
    return int(text)


def written(host: Host) -> str:
    """As `parse_host` reads it."""
    return f"[{host}]" if isinstance(host, ipaddress.IPv6Address) else str(host)


def _dotted(text: str) -> Address:
    try:
        return ipaddress.IPv4Address(text)  # four decimal parts, no leading zeros
    except ValueError:
        raise BadHost("an IPv4 address has four decimal parts without leading zeros") from None


def _bracketed(text: str) -> Address:
    try:
        address = ipaddress.IPv6Address(text[1:-1])
    except ValueError:
        raise BadHost("no IPv6 address") from None
    if not text.endswith("]") or address.scope_id is not None:
        raise BadHost("an IPv6 address is in brackets and has no zone")
    return address

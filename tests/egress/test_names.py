"""Hosts in every notation that somebody tried to dodge a rule with."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor_service.egress.names import BadHost, parse_host, parse_port, split_authority, written

NAMES = {
    "example.org": "example.org",
    "EXAMPLE.Org": "example.org",
    "example.org.": "example.org",
    "localhost": "localhost",
    "a_b.example.org": "a_b.example.org",
    "xn--bcher-kva.example": "xn--bcher-kva.example",
    "0x7f.example": "0x7f.example",
    "1.2.3.4.example": "1.2.3.4.example",
    "0xg": "0xg",
}
ADDRESSES = {
    "127.0.0.1": "127.0.0.1",
    "127.0.0.1.": "127.0.0.1",
    "[::1]": "::1",
    "[::FFFF:7f00:1]": "::ffff:7f00:1",
    "[0:0:0:0:0:ffff:127.0.0.1]": "::ffff:7f00:1",
}
NO_HOST = [
    "", ".", "..", "example..org", ".example.org", "example.org..", "-a.org", "a-.org", "a b", "a\tb",
    "a/b", "a:b:c",
    "user@example.org", "example.org#x", "example.org?x", "example.org\\x", "example.org\0",
    "exa\r\nmple.org", "*",
    "*.example.org", "a" * 64 + ".org", ".".join(["a" * 60] * 5), "%31%32%37.0.0.1", "example%2eorg",
    # what a C library takes for 127.0.0.1 or 169.254.169.254
    "127.1", "127.0.1", "2130706433", "0x7f000001", "0X7F.0.0.1", "0x7f.1", "017700000001", "0177.0.0.1",
    "127.0.0.01", "127.0.0.0x1", "00.0.0.0", "127.0.0.256", "1.2.3.4.5", "0xa9fea9fe", "2852039166", "0",
    "0x",
    "1.1.1.0x", "127.0.0.1..", "\uff11\uff12\uff17.0.0.1", "127\u30020.0.1", "\u2460\u2461\u2466.0.0.1",
    "ex\u00e4mple.org", "\u212aexample.org", "example\u3002org", "127.0.0.1%lo",
    # IPv6
    "::1", "[::1", "::1]", "[::1]x", "[::1%lo]", "[fe80::1%25eth0]", "[fe80::1%]", "[127.0.0.1]", "[]",
    "[[::1]]",
    "[example.org]", "[::1 ]", "[v1.fe80::a]", "[::127.0.0.01]",
]  # fmt: skip


@pytest.mark.parametrize(("text", "name"), NAMES.items())
def test_names(text: str, name: str) -> None:
    """A name is lower case and has no dot at its end."""
    assert parse_host(text) == name


@pytest.mark.parametrize(("text", "address"), ADDRESSES.items())
def test_addresses(text: str, address: str) -> None:
    """An address is read in its canonical notation, with the root's dot or without."""
    assert parse_host(text) == ipaddress.ip_address(address)


@pytest.mark.parametrize("text", NO_HOST, ids=ascii)
def test_no_host(text: str) -> None:
    """Everything else is no host, so that no resolver ever reads it in its own way."""
    with pytest.raises(BadHost) as caught:
        parse_host(text)
    assert text.strip(".") not in str(caught.value) or len(text) < 3


@given(st.text(alphabet="0123456789abcdefxABCDEFX.[]:%-_*@ \n\0\u0660\uff10", max_size=40))
def test_what_passes_is_a_name_or_an_address(text: str) -> None:
    """No text that passes ends in a number unless it is an address, and reading it again gives the same."""
    try:
        host = parse_host(text)
    except BadHost:
        return
    assert parse_host(written(host)) == host
    if isinstance(host, str):
        assert not host.rpartition(".")[2].isdecimal()
        with pytest.raises(ValueError, match="does not appear to be"):
            ipaddress.ip_address(host)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("example.org", ("example.org", None)),
        ("example.org:443", ("example.org", 443)),
        ("1.2.3.4:80", (ipaddress.ip_address("1.2.3.4"), 80)),
        ("[2606::1]:80", (ipaddress.ip_address("2606::1"), 80)),
        ("[2606::1]", (ipaddress.ip_address("2606::1"), None)),
    ],
)
def test_authorities(text: str, found: object) -> None:
    """A host may have a port behind it."""
    assert split_authority(text) == found


@pytest.mark.parametrize(
    "text",
    [
        ":80", "a:", "a:0", "a:65536", "a:080", "a:+80", "a: 80", "a:80 ", "a:8_0", "a:\u0661", "a:443:80",
        "a@b:80", "::1:80",
    ],
    ids=ascii,
)  # fmt: skip
def test_no_authorities(text: str) -> None:
    """A port is plain digits between 1 and 65535, and nothing else stands beside the host."""
    with pytest.raises(BadHost):
        split_authority(text)


def test_ports() -> None:
    """The first and the last are ports."""
    assert (parse_port("1"), parse_port("65535")) == (1, 65535)

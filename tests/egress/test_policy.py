"""Rules, ceilings and grants, as tables."""

from __future__ import annotations

import ipaddress

import pytest

from executor_service.egress.names import parse_host
from executor_service.egress.policy import BadRule, Ceiling, Grant, NotOffered, parse_rule

LOOPBACK = ipaddress.ip_network("127.0.0.0/8")


def grant(*rules: str, ports: tuple[int, ...] = (80, 443)) -> Grant:
    """A grant of these rules."""
    return Grant(allow=tuple(map(parse_rule, rules)), ports=frozenset(ports))


@pytest.mark.parametrize(
    "text",
    [
        "", "*", "*.", "*.*", "**.org", "*.*.org", "a.*.org", "*a.org", "a*.org", "*.a*", "*:443", "*.1",
        "*.0x7f",
        "*.169.254.169.254", "*.[::1]", "http://a.org", "a.org/", "a.org:", "a.org:0", "a.org:x",
        "a.org:443:1", "user@a.org",
        "2130706433", "0x7f.1", "127.1", "127.0.0.1:1@example.org", "example.org\r\nHost: other",
        "ex\u00e4mple.org", "a b",
        "*.ex\u00e4mple.org", "*.example.org:0", "*.-a.org", "[fe80::1%lo]", "::1",
        "*.example.org.:443:1", "*.example.org ",
    ],
    ids=ascii,
)  # fmt: skip
def test_no_rules(text: str) -> None:
    """A star stands only before a whole name, and nothing else than a host and a port is a rule."""
    with pytest.raises(BadRule):
        parse_rule(text)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("PyPI.org", "pypi.org"),
        ("pypi.org.", "pypi.org"),
        ("*.PythonHosted.org:443", "*.pythonhosted.org:443"),
        ("*.org.", "*.org"),
        ("1.1.1.1:80", "1.1.1.1:80"),
        ("[2606:4700::1]:443", "[2606:4700::1]:443"),
    ],
)
def test_rules_in_their_normal_form(text: str, normal: str) -> None:
    """A rule means the same however it is written."""
    assert str(parse_rule(text)) == normal
    assert parse_rule(normal) == parse_rule(text)


@pytest.mark.parametrize(
    ("rule", "host", "port", "passes"),
    [
        ("example.org", "example.org", 443, True),
        ("example.org", "EXAMPLE.ORG.", 80, True),
        ("example.org", "example.org", 22, False),
        ("example.org", "a.example.org", 443, False),
        ("example.org", "example.org.evil.com", 443, False),
        ("example.org", "notexample.org", 443, False),
        ("example.org", "1.1.1.1", 443, False),
        ("example.org:8443", "example.org", 8443, True),
        ("example.org:8443", "example.org", 443, False),
        ("*.example.org", "a.example.org", 443, True),
        ("*.example.org", "b.a.example.org", 443, True),
        ("*.example.org", "example.org", 443, False),
        ("*.example.org", "aexample.org", 443, False),
        ("*.example.org", "a.example.org.evil.com", 443, False),
        ("*.example.org:443", "a.example.org", 80, False),
        ("1.1.1.1", "1.1.1.1", 443, True),
        ("1.1.1.1", "[::ffff:1.1.1.1]", 443, False),
        ("[2606::1]", "[2606:0::0:1]", 443, True),
    ],
)
def test_rules_match_hosts(rule: str, host: str, port: int, passes: bool) -> None:
    """Exact hosts, whole labels below a wildcard, and the rule's own port or the usual ones."""
    assert (grant(rule).why_not(parse_host(host), port) is None) is passes


def test_any_of_several_rules() -> None:
    """One rule that matches with the port is enough, whatever the others say."""
    found = grant("example.org:8443", "example.org", "*.example.org:1")
    assert found.why_not("example.org", 8443) is None
    assert found.why_not("example.org", 443) is None
    assert found.why_not("a.example.org", 1) is None
    assert found.why_not("a.example.org", 443) == "port not allowed"
    assert found.why_not("b.org", 443) == "host not in the allow list"


def test_addresses_of_granted_hosts() -> None:
    """A name that is allowed may still not lead to a private address, nor to this host."""
    found = grant("example.org")
    assert found.why_not_address(ipaddress.ip_address("1.1.1.1"), own=False) is None
    assert found.why_not_address(ipaddress.ip_address("1.1.1.1"), own=True) == "this host's own"
    assert found.why_not_address(ipaddress.ip_address("10.0.0.1"), own=False) == "private"
    opened = Grant(allow=None, networks=(LOOPBACK,))
    assert opened.why_not_address(ipaddress.ip_address("127.0.0.1"), own=True) is None
    assert opened.why_not_address(ipaddress.ip_address("::1"), own=True)


LISTED = Ceiling(
    mode="list",
    rules=tuple(map(parse_rule, ("pypi.org", "*.pythonhosted.org:443", "*.example.org", "b.net:8080"))),
)
PUBLIC = Ceiling(mode="public", rules=(parse_rule("b.net:8080"),))
OFFERED = [
    (LISTED, ["pypi.org"]),
    (LISTED, ["pypi.org:443", "PYPI.ORG:80"]),
    (LISTED, ["files.pythonhosted.org:443", "*.a.pythonhosted.org:443"]),
    (LISTED, ["*.example.org", "a.example.org:80", "*.b.example.org:443"]),
    (LISTED, ["b.net:8080"]),
    (PUBLIC, ["*.com", "x.org:443", "1.1.1.1", "b.net:8080"]),
    (Ceiling(mode="public", networks=(LOOPBACK,)), ["127.0.0.1"]),
]
NOT_OFFERED = [
    (Ceiling(), True),
    (Ceiling(), ["pypi.org"]),
    (Ceiling(rules=LISTED.rules), ["pypi.org"]),
    (LISTED, True),
    (LISTED, []),
    (LISTED, ["a.org"] * 257),
    (LISTED, ["pypi.org", "a.org"]),
    (LISTED, ["pypi.org:22"]),
    (LISTED, ["*.pypi.org"]),
    (LISTED, ["a.pypi.org"]),
    (LISTED, ["files.pythonhosted.org"]),  # on every usual port: more than is offered
    (LISTED, ["*.pythonhosted.org:80"]),
    (LISTED, ["pythonhosted.org:443"]),
    (LISTED, ["*.org"]),
    (LISTED, ["example.org"]),
    (LISTED, ["b.net"]),
    (LISTED, ["*"]),
    (PUBLIC, []),
    (PUBLIC, ["*"]),
    (PUBLIC, ["x.org:22"]),
    (PUBLIC, ["169.254.169.254"]),
    (PUBLIC, ["[::1]"]),
    (PUBLIC, ["[64:ff9b::a9fe:a9fe]"]),
    (PUBLIC, ["2852039166"]),
    (PUBLIC, ["a.org", "0x7f.1"]),
]


@pytest.mark.parametrize(("ceiling", "rules"), OFFERED, ids=str)
def test_what_is_offered_is_granted_as_asked(ceiling: Ceiling, rules: list[str]) -> None:
    """A grant holds exactly the rules that were asked for, and the operator's ports and networks."""
    found = ceiling.grant({"allow": tuple(rules)})
    assert found == Grant(allow=tuple(map(parse_rule, rules)), ports=ceiling.ports, networks=ceiling.networks)


@pytest.mark.parametrize(("ceiling", "asked"), NOT_OFFERED, ids=str)
def test_what_is_not_offered_is_refused_whole(ceiling: Ceiling, asked: bool | list[str]) -> None:
    """One rule too much refuses the request: nothing is silently left out or narrowed."""
    with pytest.raises(NotOffered):
        ceiling.grant(asked if isinstance(asked, bool) else {"allow": tuple(asked)})


def test_none_and_any() -> None:
    """False is no grant under every ceiling; True is any host where the operator offers that."""
    assert Ceiling().grant(False) is PUBLIC.grant(False) is None
    assert PUBLIC.grant(True) == Grant(allow=None)
    assert Grant(allow=None).why_not("anything.example", 443) is None
    assert Grant(allow=None).why_not("anything.example", 25) == "port not allowed"


def test_the_view_for_callers() -> None:
    """Callers see what they may ask for, not which private networks are open."""
    assert LISTED.view() == {
        "offers": "list",
        "allow": ["pypi.org", "*.pythonhosted.org:443", "*.example.org", "b.net:8080"],
        "ports": [80, 443],
    }

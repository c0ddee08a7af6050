"""The operator's options about networks."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Mapping
from pathlib import Path

import pytest

from executor_service import egress_options
from executor_service.egress.policy import Ceiling, parse_rule
from executor_service.settings import SettingsError


def parse(*options: str, environ: Mapping[str, str] | None = None) -> tuple[Ceiling, Path | None]:
    """What options and variables make."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    egress_options.add_egress(parser, environ or {})
    found = parser.parse_args(options)
    return egress_options.ceiling(found, environ or {}), egress_options.ca_bundle(found)


def test_nothing_is_offered_by_default() -> None:
    """Without options callers get no network, and there is no network that is open."""
    assert parse() == (Ceiling(), None)
    assert parse()[0].mode == "off"


def test_all_of_them(tmp_path: Path) -> None:
    """Options may be given again, and win over variables, in which lists have commas."""
    bundle = tmp_path / "ca.crt"
    bundle.write_text("x")
    expected = Ceiling(
        mode="list",
        rules=(parse_rule("pypi.org"), parse_rule("*.example.org:8443")),
        ports=frozenset({80, 443, 8080}),
        networks=(ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8")),
    )
    options = ["--egress", "list", "--egress-allow", "PyPI.org", "--egress-allow", "*.example.org:8443"]
    options += [
        "--egress-allow-cidr",
        "10.1.0.0/16",
        "--egress-allow-cidr",
        "fd00::/8",
        "--egress-port",
        "8080",
    ]
    assert parse(*options, "--ca-bundle", str(bundle)) == (expected, bundle)
    environ = {
        "CODECELL_EGRESS_ALLOW": "pypi.org, *.example.org:8443",
        "CODECELL_EGRESS_ALLOW_CIDR": "10.1.0.0/16,fd00::/8",
        "CODECELL_EGRESS_PORT": "8080",
        "CODECELL_CA_BUNDLE": str(bundle),
    }
    assert parse(environ=environ) == (expected, bundle)
    assert parse("--egress-port", "81", environ=environ)[0].ports == {80, 81, 443}
    assert parse("--egress", "off", environ=environ)[0].mode == "off"


@pytest.mark.parametrize(
    "options",
    [
        ["--egress", "list"],
        ["--egress-allow", "*"],
        ["--egress-allow", "http://pypi.org"],
        ["--egress-allow", "0x7f.1"],
        ["--egress-allow-cidr", "10.1.0.1/16"],
        ["--egress-allow-cidr", "localhost"],
        ["--egress-port", "0"],
        ["--egress-port", "http"],
        ["--ca-bundle", "/nonexistent/ca.crt"],
        ["--ca-bundle", "/"],
    ],
    ids=" ".join,
)
def test_what_makes_no_sense(options: list[str]) -> None:
    """Is refused at start, by its name."""
    with pytest.raises(SettingsError, match=options[0]):
        parse(*options)


def test_a_url_is_no_host() -> None:
    """And the message says so, for all its port and path."""
    with pytest.raises(SettingsError, match="give a host, not a URL"):
        parse("--egress-allow", "http://pypi.org/")


def test_a_variable_that_makes_no_sense() -> None:
    """The same for variables."""
    with pytest.raises(SettingsError, match="CODECELL_EGRESS"):
        parse(environ={"CODECELL_EGRESS": "everything"})

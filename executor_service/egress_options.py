"""The options about the network of sandboxes, and the ceiling that they make."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path

from executor_service.egress.addresses import Network
from executor_service.egress.names import BadHost, parse_port
from executor_service.egress.policy import WEB_PORTS, BadRule, Ceiling, Mode, Rule, parse_rule
from executor_service.settings import SettingsError

MODES: tuple[Mode, ...] = ("off", "list", "public")


def add_egress(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """What callers may ask for; each option has its variable, lists in it are separated by commas."""
    parser.add_argument(
        "--egress",
        choices=MODES,
        default=environ.get("CODECELL_EGRESS") or None,
        help="network that callers may ask for: none, the hosts of --egress-allow, or any public host "
        "(default list where --egress-allow is given, else off)",
    )
    for name, metavar, help_text in (
        ("egress-allow", "HOST[:PORT]", "a host, or *.HOST for all below it; again for more"),
        (
            "egress-allow-cidr",
            "CIDR",
            "addresses that may be reached though they are not public; again for more",
        ),
        ("egress-port", "PORT", "a port beside 80 and 443; again for more"),
    ):
        parser.add_argument(f"--{name}", action="append", default=None, metavar=metavar, help=help_text)
    parser.add_argument(
        "--ca-bundle",
        type=Path,
        default=environ.get("CODECELL_CA_BUNDLE") or None,
        metavar="FILE",
        help="all certificate authorities for sandboxes that have a network (default the image's own)",
    )


def ceiling(found: argparse.Namespace, environ: Mapping[str, str]) -> Ceiling:
    """What the options say.

    Raises:
        SettingsError: they make no sense.
    """
    rules = tuple(_rule(text) for text in _words(found.egress_allow, environ, "CODECELL_EGRESS_ALLOW"))
    mode = _mode(found.egress or ("list" if rules else "off"))
    if mode == "list" and not rules:
        raise SettingsError("--egress list: say which hosts, with --egress-allow")
    networks = _words(found.egress_allow_cidr, environ, "CODECELL_EGRESS_ALLOW_CIDR")
    ports = _words(found.egress_port, environ, "CODECELL_EGRESS_PORT")
    return Ceiling(
        mode=mode,
        rules=rules,
        ports=WEB_PORTS | {_port(text) for text in ports},
        networks=tuple(map(_network, networks)),
    )


def ca_bundle(found: argparse.Namespace) -> Path | None:
    """The file; an empty one counts as none. Raises SettingsError: it cannot be read."""
    path: Path | None = found.ca_bundle and Path(found.ca_bundle)
    if path is not None:
        try:
            with path.open("rb") as file:
                if not file.read(1):
                    return None
        except OSError as error:
            raise SettingsError(f"--ca-bundle {path}: {error.strerror or error}") from None
    return path


def _mode(text: str) -> Mode:
    for mode in MODES:
        if text == mode:
            return mode
    raise SettingsError(f"CODECELL_EGRESS: say one of {', '.join(MODES)}")


def _words(given: Sequence[str] | None, environ: Mapping[str, str], variable: str) -> list[str]:
    return list(given) if given is not None else environ.get(variable, "").replace(",", " ").split()


def _rule(text: str) -> Rule:
    try:
        return parse_rule(text)
    except BadRule as error:
        raise SettingsError(f"--egress-allow {text}: {error}") from None


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise SettingsError(f"--egress-allow-cidr: {error}") from None


def _port(text: str) -> int:
    try:
        return parse_port(text)
    except BadHost as error:
        raise SettingsError(f"--egress-port {text}: {error}") from None

"""What sandboxes may reach: rules, what the operator offers, what a caller was granted. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from executor_service.egress.addresses import Network, why_not_public, within
from executor_service.egress.names import (
    Address,
    BadHost,
    Host,
    split_authority,
    written,
)

Mode = Literal["off", "list", "public"]
Asked = bool | Mapping[str, tuple[str, ...]]
"""What a caller writes: False, True, or ``{"allow": (rules)}``."""

WEB_PORTS = frozenset({80, 443})
MAX_RULES = 256


class BadRule(ValueError):
    """No rule; the message says why."""


class NotOffered(Exception):
    """The operator does not offer what was asked for; the message says what is wrong."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One host, or every name below one (`wildcard`; not itself), on one port or on all usual ones."""

    host: Host
    wildcard: bool = False
    port: int | None = None

    def __str__(self) -> str:
        host = f"*.{self.host}" if self.wildcard else written(self.host)
        return host if self.port is None else f"{host}:{self.port}"

    def matches(self, host: Host) -> bool:
        """Whether it names `host`."""
        if self.wildcard:
            return isinstance(host, str) and host.endswith(f".{self.host}")
        return host == self.host

    def covers(self, other: Rule, ports: frozenset[int]) -> bool:
        """Whether this one names every host and port that `other` names; `ports` are the usual ones."""
        if other.port != self.port and (self.port is not None or other.port not in ports):
            return False
        if not other.wildcard:
            return self.matches(other.host)
        return self.wildcard and (other.host == self.host or self.matches(other.host))


def parse_rule(text: str) -> Rule:
    """`host`, `*.host`, either with `:port`.

    Raises:
        BadRule: anything else, such as a star elsewhere, a URL, or an address in another notation.
    """
    if "://" in text:
        raise BadRule("give a host, not a URL")
    try:
        if text.startswith("*."):
            above, port = split_authority(text[2:])
            if not isinstance(above, str):
                raise BadRule("a wildcard stands before a name")
            return Rule(host=above, wildcard=True, port=port)
        host, port = split_authority(text)
    except BadHost as error:
        raise BadRule(str(error)) from None
    return Rule(host=host, port=port)


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What one sandbox may reach. `allow` None: any public host. `ports` are the usual ones.

    `networks` are those that the operator opened although they are not public.
    """

    allow: tuple[Rule, ...] | None
    ports: frozenset[int] = WEB_PORTS
    networks: tuple[Network, ...] = ()

    def why_not(self, host: Host, port: int) -> str | None:
        """Why a program may not ask for `host` at `port`, before anything is looked up; None if it may."""
        if self.allow is None:
            return None if port in self.ports else "port not allowed"
        found = [rule for rule in self.allow if rule.matches(host)]
        if not found:
            return "host not in the allow list"
        if not any(port in self.ports if rule.port is None else port == rule.port for rule in found):
            return "port not allowed"
        return None

    def why_not_address(self, address: Address, *, own: bool) -> str | None:
        """Why an address may not be connected to; None if it may. `own`: it is this host's."""
        if within(address, self.networks):
            return None
        return why_not_public(address) or ("this host's own" if own else None)


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """What callers may ask for. `rules` count in mode `list`, and in `public` for ports beyond `ports`."""

    mode: Mode = "off"
    rules: tuple[Rule, ...] = ()
    ports: frozenset[int] = WEB_PORTS
    networks: tuple[Network, ...] = ()

    def grant(self, asked: Asked) -> Grant | None:
        """What `asked` gets, exactly; None for no network.

        Raises:
            NotOffered: more than is offered, or no rule. Nothing is silently more or less.
        """
        if asked is False:
            return None
        if self.mode == "off":
            raise NotOffered("this server offers none; leave it out, or set it to false")
        if asked is True:
            if self.mode != "public":
                raise NotOffered(f"this server offers a list of hosts only: {self._offer()}")
            return Grant(allow=None, ports=self.ports, networks=self.networks)
        return Grant(allow=self._allowed(asked), ports=self.ports, networks=self.networks)

    def _allowed(self, asked: Mapping[str, tuple[str, ...]]) -> tuple[Rule, ...]:
        texts = asked.get("allow", ())
        if not texts or len(texts) > MAX_RULES:
            raise NotOffered(f"allow names 1 to {MAX_RULES} hosts")
        rules = []
        for number, text in enumerate(texts):
            try:
                rule = parse_rule(text)
            except BadRule as error:
                raise NotOffered(f"allow.{number}: {error}; write host, *.host or host:port") from None
            if why := self._why_not(rule):
                raise NotOffered(f"allow.{number}: {why}")
            rules.append(rule)
        return tuple(rules)

    def _why_not(self, rule: Rule) -> str | None:
        literal = None if isinstance(rule.host, str) or within(rule.host, self.networks) else rule.host
        if literal is not None and (why := why_not_public(literal)):
            return f"an address that is not public ({why})"
        if any(own.covers(rule, self.ports) for own in self.rules):
            return None
        if self.mode != "public":
            return f"not among what this server offers: {self._offer()}"
        if rule.port is not None and rule.port not in self.ports:
            return f"port {rule.port} is not among {_numbers(self.ports)}"
        return None

    def _offer(self) -> str:
        return ", ".join(map(str, self.rules)) or "none"

    def view(self) -> dict[str, object]:
        """For callers: what they may ask for."""
        return {"offers": self.mode, "allow": [str(rule) for rule in self.rules], "ports": sorted(self.ports)}


def _numbers(ports: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(ports)))

"""Where the service is: the argument, else `CODECELL_URL`, else one that is found or started here."""

from __future__ import annotations

import os
from collections.abc import Callable

from agent_client.client.transport import Address, Locate
from agent_client.errors import ServiceUnreachable

DEFAULT_URL = "http://127.0.0.1:8700"
Find = Callable[[str | None], Address]


def locate(base_url: str | None, api_key: str | None, *, find: Find | None) -> Locate:
    """How a transport finds its service: `find` is asked only where no address is given."""

    def located() -> Address:
        url = base_url or os.environ.get("CODECELL_URL") or None
        key = _clean(api_key if api_key is not None else os.environ.get("CODECELL_API_KEY") or "")
        if url:
            return Address(url=_root(url), api_key=key)
        return find(key) if find else Address(url=DEFAULT_URL, api_key=key)

    return located


def _root(url: str) -> str:
    """The service's root, also where its API's was given."""
    trimmed = url.rstrip("/")
    return trimmed.removesuffix("/v1") if trimmed.endswith("/v1") else url


def _clean(key: str) -> str | None:
    """A key without the white space around it, such as a file's last newline; None for an empty one.

    Raises:
        ServiceUnreachable: it cannot be sent. The key is not in the message.
    """
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise ServiceUnreachable("the API key has characters that cannot stand in a header")
    return key or None

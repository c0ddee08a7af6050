"""Where the service is: the argument, else `CODECELL_URL`, else one that is found or started here."""

from __future__ import annotations

import os

from agent_client.autostart import DEFAULT_URL, Address, find_or_start
from agent_client.errors import ServiceUnreachable


def locate(base_url: str | None, api_key: str | None, *, autostart: bool) -> Address:
    """The service's address; with `autostart`, and none given, finding it may start a service.

    Raises:
        ServiceUnreachable: the key cannot be sent (it is not in the message), or no service can be started.
    """
    key = (api_key if api_key is not None else os.environ.get("CODECELL_API_KEY") or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ServiceUnreachable("the API key has characters that cannot stand in a header")
    url = base_url or os.environ.get("CODECELL_URL")
    if not url and autostart:
        return find_or_start(key or None)
    # The service's root, also where its API's was given.
    return Address(url=(url or DEFAULT_URL).rstrip("/").removesuffix("/v1"), api_key=key or None)

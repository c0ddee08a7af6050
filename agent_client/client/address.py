"""Where the service is: the argument, else `CODECELL_URL`, else one that is found or started here."""

from __future__ import annotations

import os
from collections.abc import Callable

from agent_client.client.transport import Address, Locate

DEFAULT_URL = "http://127.0.0.1:8700"
Find = Callable[[str | None], Address]


def locate(base_url: str | None, api_key: str | None, *, find: Find | None) -> Locate:
    """How a transport finds its service: `find` is asked only where no address is given."""

    def located() -> Address:
        url = base_url or os.environ.get("CODECELL_URL") or None
        key = api_key if api_key is not None else os.environ.get("CODECELL_API_KEY") or None
        if url:
            return Address(url=url, api_key=key)
        return find(key) if find else Address(url=DEFAULT_URL, api_key=key)

    return located

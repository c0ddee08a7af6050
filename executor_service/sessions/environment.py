"""The environment variables of the programs in a sandbox: the same base for all, the caller's on top."""

from __future__ import annotations

import math
from collections.abc import Mapping

from executor_service.guest.egress import PORT
from executor_service.guest.template import CA_BUNDLE
from executor_service.images import BASE_ENV, THREAD_COUNTS

WORKSPACE = "/workspace"
_WARM = {**BASE_ENV, **dict.fromkeys(THREAD_COUNTS, "1")}  # what a kernel was started with


_PROXY = f"http://127.0.0.1:{PORT}"
_NO_PROXY = "localhost,127.0.0.1,::1,sandbox"
WAY_OUT: Mapping[str, str] = {
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), _PROXY),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), _NO_PROXY),
    "NODE_USE_ENV_PROXY": "1",  # Node.js 24 and later
    "PIP_RETRIES": "5",  # pip's own default, where BASE_ENV says that trying again is of no use
}
"""Set in every sandbox that has a network."""
CA_BUNDLE_ENV: Mapping[str, str] = dict.fromkeys(
    (
        "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS",
        "GIT_SSL_CAINFO", "CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE", "DENO_CERT",
    ),
    CA_BUNDLE,
)  # fmt: skip
"""Set beside, where the operator gave certificate authorities."""


def way_out(*, network: bool, ca_bundle: bool) -> Mapping[str, str]:
    """The variables by which programs find the egress proxy; none without a network."""
    return {**WAY_OUT, **(CA_BUNDLE_ENV if ca_bundle else {})} if network else {}


def environment(*layers: Mapping[str, str], cpus: float) -> dict[str, str]:
    """All variables; later layers win. The libraries that start threads see `cpus`, rounded up."""
    env = dict(BASE_ENV) | dict.fromkeys(THREAD_COUNTS, str(math.ceil(cpus)))
    for layer in layers:
        env |= layer
    return env


def for_kernel(env: Mapping[str, str]) -> dict[str, str]:
    """Those of `env` that a kernel, which was started before its lease was known, does not have yet."""
    return {name: value for name, value in env.items() if _WARM.get(name) != value}

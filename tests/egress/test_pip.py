"""`pip install` through the egress proxy, and its refusal without; the index is that of this host's pip."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from conftest import RealService

from tests.egress.conftest import Caller

PACKAGE = "iniconfig"
"""Small, without dependencies, and in no image."""
INSTALL = (
    "import subprocess, sys\n"
    f"pip = [sys.executable, '-m', 'pip', 'install', {PACKAGE!r}]\n"
    "done = subprocess.run(pip, capture_output=True, text=True)\n"
    "print(done.returncode, done.stdout[-2000:], done.stderr[-2000:])\n"
    f"import {PACKAGE}; print('imported', {PACKAGE}.__file__)\n"
)
FILES = "files.pythonhosted.org"


def pip_option(name: str, default: str) -> str:
    """What this host's pip is configured with."""
    command = [sys.executable, "-m", "pip", "config", "get", f"global.{name}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return os.environ.get(f"PIP_{name.upper().replace('-', '_')}") or found.stdout.strip() or default


def addresses(host: str) -> set[str]:
    """Where this host finds another, as networks of one address."""
    try:
        found = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    except OSError:
        pytest.skip(f"this machine does not know {host}")
    return {str(ipaddress.ip_network(str(info[4][0]))) for info in found}


@pytest.fixture(scope="module")
def index() -> str:
    """The address of the package index."""
    return pip_option("index-url", "https://pypi.org/simple")


@pytest.fixture(scope="module")
def hosts(index: str) -> list[str]:
    """The index's host, and the one that its files lie on."""
    host = urlsplit(index).hostname or ""
    return [host, FILES] if host == "pypi.org" else [host]


@pytest.fixture(scope="module")
def shop(
    backend_name: str, hosts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealService]:
    """A service that offers these hosts alone, their addresses, and the authorities of this host's pip."""
    options = [f"--egress-allow={host}" for host in hosts]
    options += [f"--egress-allow-cidr={network}" for host in hosts for network in sorted(addresses(host))]
    if bundle := pip_option("cert", ""):
        options.append(f"--ca-bundle={bundle}")
    state = tmp_path_factory.mktemp("pip") / "state"
    service = RealService(
        state, "--egress", "list", *options, "--warm", "0", "--acquire-timeout", "60", backend=backend_name
    )
    yield service
    assert service.stop() == 0


@pytest.fixture
def buyer(shop: RealService) -> Iterator[Caller]:
    """A caller of that service."""
    with httpx2.Client(base_url=shop.url, timeout=180) as client:
        made = Caller(client)
        yield made
        for session in made.made:
            client.delete(session)


def test_pip_installs_through_the_proxy(buyer: Caller, hosts: list[str], index: str) -> None:
    """A package is installed in a running session, and its kernel imports it at once."""
    session = buyer.session(network={"allow": hosts}, env={"PIP_INDEX_URL": index})
    printed = buyer.execute(session, INSTALL, limits={"wall_time": 170})
    assert "Successfully installed" in printed
    assert "imported /workspace/" in printed


def test_pip_in_a_run(buyer: Caller, hosts: list[str], index: str) -> None:
    """The same in a run, whose program imports it afterwards."""
    printed = buyer.run(
        INSTALL, network={"allow": hosts}, env={"PIP_INDEX_URL": index}, limits={"wall_time": 170}
    )
    assert "imported /workspace/" in printed


@pytest.mark.parametrize("rules", [False, ["no.example"]])
def test_pip_without_the_host(
    shop: RealService, buyer: Caller, hosts: list[str], index: str, rules: object
) -> None:
    """Without a network pip fails soon and says so; a host that is not offered cannot be asked for at all."""
    if rules is False:
        ended = buyer.ended(INSTALL, network=False, env={"PIP_INDEX_URL": index}, limits={"wall_time": 60})
        assert ended["outcome"] == "error"
        assert "Successfully installed" not in ended["stdout"]
        assert ended["duration"] < 30
        return
    body = {"language": "python", "code": INSTALL, "network": {"allow": [*hosts, "no.example"]}}
    answer = buyer.http.post("/v1/runs", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "network_not_allowed")
    assert "no.example" not in answer.json()["detail"].partition("offers:")[2]


def test_pip_where_the_address_is_not_listed(
    backend_name: str, hosts: list[str], index: str, tmp_path: Path
) -> None:
    """An index whose address is not public is refused where the operator did not list its range."""
    public = all(ipaddress.ip_network(text).is_global for host in hosts for text in addresses(host))
    options = [f"--egress-allow={host}" for host in hosts] + ["--warm", "0", "--acquire-timeout", "60"]
    service = RealService(tmp_path / "state", *options, backend=backend_name)
    try:
        with httpx2.Client(base_url=service.url, timeout=120) as client:
            ended = Caller(client).ended(
                INSTALL.replace("'install'", "'install', '--retries', '1'"),
                network={"allow": hosts},
                env={"PIP_INDEX_URL": index},
                limits={"wall_time": 60},
            )
        refused = "no address that may be reached" in ended["stdout"] + ended["stderr"]
        assert (ended["outcome"], refused) == (("ok", False) if public else ("error", True))
    finally:
        assert service.stop() == 0

"""compose.yaml and the service's Dockerfile: what they promise, as text."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import yaml
from deployment import ROOT, compose_command

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICE: dict[str, Any] = COMPOSE["services"]["codecell"]
DOCKERFILE = (ROOT / "executor_service/Dockerfile").read_text()


def test_the_service_is_locked_in() -> None:
    """No capability, no new privileges, a read-only root, a bounded /tmp, a bounded number of processes."""
    assert SERVICE["cap_drop"] == ["ALL"]
    assert "cap_add" not in SERVICE
    assert "privileged" not in SERVICE
    assert SERVICE["security_opt"] == ["no-new-privileges:true"]
    assert SERVICE["read_only"] is True
    assert [place.split(":")[0] for place in SERVICE["tmpfs"]] == ["/tmp"]
    assert SERVICE["pids_limit"] > 0
    assert SERVICE["user"] == "0:0"


def test_it_is_reached_from_this_host_alone() -> None:
    """Ports are published on loopback; another address needs a decision."""
    assert [port.split(":")[0] for port in SERVICE["ports"]] == ["127.0.0.1"]
    assert "network_mode" not in SERVICE


def test_three_things_of_the_host_are_mounted() -> None:
    """The engine's socket, the state directory under one path on both sides, certificates for builds."""
    socket, state, authorities = SERVICE["volumes"]
    assert (socket["type"], socket["target"]) == ("bind", "/var/run/docker.sock")
    outside, inside = state.split("}:")
    assert outside + "}" == inside
    assert (authorities["type"], authorities["read_only"]) == ("bind", True)


def test_no_key_is_shipped() -> None:
    """It comes from whoever deploys, or is made at the first start."""
    assert SERVICE["environment"]["CODECELL_API_KEY"] == "${CODECELL_API_KEY:-}"
    assert "CODECELL_GENERATE_KEY=1" in DOCKERFILE
    assert "CODECELL_API_KEY" not in DOCKERFILE


def test_it_recovers_and_is_watched() -> None:
    """A restart policy and a health check, the same in the image as in the compose file."""
    assert SERVICE["restart"] == "unless-stopped"
    assert ", ".join(f'"{word}"' for word in SERVICE["healthcheck"]["test"][1:]) in DOCKERFILE


def test_every_variable_is_told_where_it_is_set() -> None:
    """What can be set is listed at the top of the file, or in the guide."""
    text = (ROOT / "compose.yaml").read_text()
    told = text.partition("services:")[0] + (ROOT / "docs/deploy.md").read_text()
    used = {word.partition(":")[0].partition("}")[0] for word in text.split("${")[1:]}
    assert {name for name in used if name not in told} == set()


def test_no_service_is_not_healthy() -> None:
    """The health check fails where nothing answers, in a moment and with a word."""
    argv = [sys.executable, "-I", "-m", "executor_service.health"]
    env = {**os.environ, "CODECELL_PORT": "1"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("no answer on port 1")


@pytest.mark.docker
def test_compose_understands_the_file() -> None:
    """Whatever compose is here takes it; defaults are filled in."""
    command = compose_command()
    env = {name: value for name, value in os.environ.items() if not name.startswith("CODECELL_")}
    done = subprocess.run([*command, "config"], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    found = yaml.safe_load(done.stdout)["services"]["codecell"]
    assert found["build"]["args"]["BASE_IMAGE"] == "debian:trixie-slim"
    assert found["environment"]["CODECELL_STATE_DIR"] == "/var/lib/codecell"

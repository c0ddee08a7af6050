"""A deployment by compose.yaml, tried: built, called, restarted, looked at from outside."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from deployment import MARKER, Deployment, compose_command

pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of somebody's own that nobody has built yet."""
    directory: Path = tmp_path_factory.mktemp("images") / "tiny"
    directory.mkdir()
    (directory / "image.toml").write_text('description = "small"\ndocker_languages = ["python", "bash"]\n')
    (directory / "requirements.txt").write_text("# nothing beside what is below it\n")
    return directory


@pytest.fixture(scope="module")
def deployed(
    docker_image: object, tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """The service, deployed with no key and one image that is missing."""
    deployment = Deployment(compose_command(), tmp_path_factory.mktemp("deployment"), [tiny])
    try:
        deployment.up(CODECELL_IMAGE="python tiny")
        yield deployment
    finally:
        deployment.down()
        remove_tags("codecell/tiny")


def remove_tags(repository: str) -> None:
    """Every image of that name."""
    listing = ["docker", "images", repository, "--format", "{{.Repository}}:{{.Tag}}"]
    tags = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split()
    subprocess.run(["docker", "rmi", *tags], capture_output=True, check=False)


@pytest.fixture(scope="module")
def client(deployed: Deployment) -> Iterator[httpx2.Client]:
    """A caller with the key that the log showed."""
    (key,) = deployed.keys()
    with httpx2.Client(base_url=deployed.url, headers={"X-API-Key": key}, timeout=60) as found:
        yield found


def test_images_are_built_and_run(client: httpx2.Client) -> None:
    """What was missing is built by the first start, and programs run in it and in the other."""
    assert {image["name"] for image in client.get("/v1/images").json()["items"]} == {"python", "tiny"}
    for image in ("python", "tiny"):
        body = {"language": "python", "image": image, "code": "import os; print(os.getuid())"}
        assert client.post("/v1/runs", json=body).json()["stdout"] == "1000\n"
    info = client.get("/v1/info").json()
    assert info["backend"] == "docker"


def test_nobody_calls_without_the_key(deployed: Deployment) -> None:
    """The door is closed but for the health checks."""
    assert httpx2.get(f"{deployed.url}/v1/info").status_code == 401
    assert httpx2.get(f"{deployed.url}/readyz").status_code == 200


def test_the_service_is_root_without_power(deployed: Deployment) -> None:
    """Uid 0 with no capability at all, no new privileges, a filter, a root that it cannot write."""
    found = deployed.inspect()
    status = (Path("/proc") / str(worker(found["State"]["Pid"])) / "status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["0"] * 4
    assert {fields[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    write = ["docker", "exec", deployed.container, "touch", "/opt/codecell/service/x"]
    assert b"Read-only file system" in subprocess.run(write, capture_output=True, check=False).stderr
    bindings = found["HostConfig"]["PortBindings"]["8700/tcp"]
    assert [binding["HostIp"] for binding in bindings] == ["127.0.0.1"]


def worker(init: int) -> int:
    """The service's process: the child of the container's init."""
    children = Path(f"/proc/{init}/task/{init}/children").read_text().split()
    return int(children[0])


def test_the_guests_sockets_are_for_the_service_alone(client: httpx2.Client, deployed: Deployment) -> None:
    """They lie below the state directory, seen under one path by both sides; nobody else can enter it."""
    session = client.post("/v1/sessions", json={}).json()["id"]
    assert stat.S_IMODE(deployed.state_dir.stat().st_mode) == 0o700
    sockets = list(deployed.state_dir.glob("run/sb_*/*/guest.sock"))
    assert sockets
    for path in sockets:
        status = path.lstat()
        assert stat.S_ISSOCK(status.st_mode)
        assert (status.st_uid, status.st_gid) == (0, 0)
        assert not status.st_mode & 0o007
        assert not path.parent.stat().st_mode & 0o007
    assert client.delete(f"/v1/sessions/{session}").status_code == 204


def test_a_restart_keeps_sessions_and_shows_no_key_again(client: httpx2.Client, deployed: Deployment) -> None:
    """State in a kernel outlives the service's container; so does the key, which is kept only hashed."""
    session = client.post("/v1/sessions", json={}).json()["id"]
    executions = f"/v1/sessions/{session}/executions"
    assert client.post(executions, json={"code": "x = 41"}).json()["outcome"] == "ok"
    deployed.compose("restart", "-t", "20")
    deployed.wait()
    (key,) = deployed.keys()
    assert key not in (deployed.state_dir / "keys").read_text()
    found = client.post(executions, json={"code": "x + 1"}).json()
    assert found["result"]["text/plain"] == "42"
    assert client.delete(f"/v1/sessions/{session}").status_code == 204


def test_no_image_has_a_trace_of_the_certificates(deployed: Deployment) -> None:
    """Neither the service's image nor one that it built holds the CA bundle, nor does their history."""
    for image in (deployed.image, "codecell/tiny"):
        history = ["docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image]
        shown = subprocess.run(history, capture_output=True, text=True, check=True).stdout
        assert MARKER not in shown
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
            assert saving.stdout is not None
            tail = b""
            while chunk := saving.stdout.read(1 << 20):
                assert MARKER.encode() not in tail + chunk
                tail = chunk[-len(MARKER) :]
        assert saving.returncode == 0

"""What is particular to the Docker backend: its socket, its survivors, what is not there."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from contextlib import asynccontextmanager
from pathlib import Path

import docker
import pytest
from conformance.programs import run, shell

from executor_service.errors import BackendUnavailable, ImageNotFound, SandboxFailed
from executor_service.sandboxes.base import Lease, SandboxSpec
from executor_service.sandboxes.docker import DockerBackend
from executor_service.sandboxes.docker_sandbox import _open_socket
from executor_service.sandboxes.kernel import Kernel

pytestmark = [pytest.mark.docker]
MiB = 1 << 20
LEASE = Lease(memory_bytes=256 * MiB, processes=64, cpus=1.0)
DURABLE = Lease(memory_bytes=256 * MiB, processes=64, cpus=1.0, durable=True, expires_in=120.0)
SPEC = SandboxSpec(image="python", disk_bytes=16 * MiB)
DEADLINE = 60.0


@asynccontextmanager
async def entered(docker_image, state: Path, instance: str):
    """A backend with one image."""
    async with DockerBackend([docker_image], state, instance) as backend:
        yield backend


def containers(instance: str, *, running: bool = False) -> list[str]:
    """Ids of an instance's containers; those that ended too, unless only what is `running` counts."""
    client = docker.APIClient()
    try:
        mine = {"label": f"codecell.instance={instance}"}
        return [found["Id"] for found in client.containers(all=not running, filters=mine)]
    finally:
        client.close()


async def gone(instance: str) -> None:
    """Until an instance has no container that runs: some engines leave the rest to the next sweep."""
    async with asyncio.timeout(DEADLINE):
        while await asyncio.to_thread(containers, instance, running=True):  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(0.1)


async def test_leaving_the_backend_leaves_no_container_and_no_directory(docker_image, tmp_path):
    """What was not closed is closed."""
    async with entered(docker_image, tmp_path, "left") as backend:
        await backend.create(SPEC)
    assert containers("left") == []
    assert list((tmp_path / "run").glob("sb_*")) == []


async def test_a_sandbox_ends_when_its_service_dies(docker_image, tmp_path):
    """Process 1 notices that nobody watches any more."""
    async with entered(docker_image, tmp_path, "orphan") as backend:
        sandbox = await backend.create(SPEC)
        await sandbox.configure(LEASE)
        await sandbox.let_go()
        await gone("orphan")


async def test_a_durable_sandbox_is_adopted_with_its_kernel(docker_image, tmp_path):
    """Another service finds it by its id, with its state, and may close it."""
    async with entered(docker_image, tmp_path, "durable") as backend:
        sandbox = await backend.create(SandboxSpec(image="python", warm="kernel", disk_bytes=16 * MiB))
        await sandbox.configure(DURABLE)
        kernel = await Kernel.connect(sandbox)
        async for _ in kernel.execute("treasure = 42", output_bytes=1000):
            pass
        await kernel.close()
    async with entered(docker_image, tmp_path, "durable") as backend:
        found = await backend.adopt([sandbox.id, "sb_" + "0" * 32])
        assert [each.id for each in found] == [sandbox.id]
        assert found[0].spec.warm == "kernel"
        assert await backend.sweep() == 0
        kernel = await Kernel.connect(found[0])
        shown = [event async for event in kernel.execute("print(treasure)", output_bytes=1000)]
        assert any(getattr(event, "text", "") == "42\n" for event in shown)
        await kernel.close()
        await found[0].close()
        assert containers("durable") == []


async def test_what_is_not_adopted_is_swept(docker_image, tmp_path):
    """And another instance's is not touched."""
    async with (
        entered(docker_image, tmp_path / "other", "other") as other,
        entered(docker_image, tmp_path / "swept", "swept") as first,
    ):
        theirs = await other.create(SPEC)
        ours = await first.create(SPEC)
        await ours.configure(DURABLE)
        await ours.let_go()
        async with entered(docker_image, tmp_path / "swept", "swept") as second:
            assert await second.sweep() == 1
            assert containers("swept") == []
        assert (await shell(theirs, "echo alive")).stdout == "alive\n"


async def test_a_durable_sandbox_never_outlives_its_expiry(docker_image, tmp_path):
    """Even if no service ever comes back."""
    async with entered(docker_image, tmp_path, "expiry") as backend:
        sandbox = await backend.create(SPEC)
        await sandbox.configure(
            Lease(memory_bytes=256 * MiB, processes=64, cpus=1.0, durable=True, expires_in=1.0)
        )
        await sandbox.let_go()
        await gone("expiry")


async def test_renew_moves_the_end(docker_image, tmp_path):
    """To an earlier instant too."""
    async with entered(docker_image, tmp_path, "renew") as backend:
        sandbox = await backend.create(SPEC)
        await sandbox.configure(DURABLE)
        await sandbox.renew(0.5)
        async with asyncio.timeout(DEADLINE):
            await sandbox.died.wait()


async def test_a_container_removed_behind_our_back_is_a_dead_sandbox(docker_image, tmp_path):
    """`died` is set, and whatever is asked fails with our error."""
    async with entered(docker_image, tmp_path, "behind") as backend:
        sandbox = await backend.create(SPEC)
        client = docker.APIClient()
        client.remove_container(sandbox.container, force=True)
        client.close()
        async with asyncio.timeout(DEADLINE):
            await sandbox.died.wait()
        with pytest.raises(SandboxFailed):
            await sandbox.configure(LEASE)


async def test_an_image_that_the_engine_lost_is_named_with_its_command(docker_image, tmp_path):
    """As one that was never built."""

    class Lost:
        name, reference, preload, fingerprint = "python", "codecell/python:no-such-key", (), "lost"

    async with entered(Lost(), tmp_path, "lost") as backend:
        with pytest.raises(ImageNotFound, match="images build python --backend docker"):
            await backend.create(SPEC)
    assert list((tmp_path / "run").glob("sb_*")) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the package leaks a socket
async def test_an_engine_that_is_not_there_is_unavailable(docker_image, tmp_path):
    """With its address in the error."""
    address = f"unix://{tmp_path}/no.sock"
    said = ""
    try:
        async with DockerBackend([docker_image], tmp_path, "none", docker_host=address):
            pass
    except BackendUnavailable as error:
        said = error.detail
    gc.collect()  # while the warning counts as this test's
    assert "no.sock" in said


async def test_an_unknown_runtime_is_refused_with_those_that_there_are(docker_image, tmp_path):
    """Before any sandbox is made."""
    with pytest.raises(BackendUnavailable, match=r"no runtime 'nosuch'; it has .*runc"):
        async with DockerBackend([docker_image], tmp_path, "runtime", runtime="nosuch"):
            raise AssertionError("entered")


def test_a_link_in_the_socket_s_place_is_not_followed(tmp_path):
    """To the engine's own socket, say."""
    real = socket.socket(socket.AF_UNIX)
    real.bind(str(tmp_path / "engine.sock"))
    (tmp_path / "guest.sock").symlink_to(tmp_path / "engine.sock")
    with pytest.raises(SandboxFailed):
        _open_socket(tmp_path / "guest.sock")
    (tmp_path / "plain").write_text("")
    with pytest.raises(SandboxFailed, match="no socket"):
        _open_socket(tmp_path / "plain")
    os.close(_open_socket(tmp_path / "engine.sock"))
    real.close()


async def test_a_socket_of_another_user_is_not_talked_to(docker_image, tmp_path):
    """Whoever listens there is not the guest."""
    async with entered(docker_image, tmp_path, "peer") as backend:
        sandbox = await backend.create(SPEC)
        sandbox.guest_uid = 4711
        with pytest.raises(SandboxFailed, match="not the guest"):
            await sandbox.connect()


async def test_user_code_cannot_reach_the_directory_of_the_socket(docker_image, tmp_path):
    """Nor the guest by /proc, nor the mount by its name."""
    async with entered(docker_image, tmp_path, "reach") as backend:
        sandbox = await backend.create(SPEC)
        await sandbox.configure(LEASE)
        ran = await shell(
            sandbox,
            "for p in /run/codecell /run/codecell/guest /run/codecell/guest/guest.sock /proc/1/root "
            "/proc/1/cwd /proc/1/fd /proc/1/environ /proc/1/mem; do "
            "ls $p/ >/dev/null 2>&1 && echo reached $p; cat $p >/dev/null 2>&1 && echo read $p; "
            "touch $p/x 2>/dev/null && echo wrote $p; done; kill -9 1; echo $?",
        )
        assert ran.stdout == "1\n"


async def test_a_container_knows_its_own_names(docker_image, tmp_path):
    """Without a network the engine leaves /etc/hosts empty."""
    async with entered(docker_image, tmp_path, "hosts") as backend:
        sandbox = await backend.create(SPEC)
        await sandbox.configure(LEASE)
        program = "import socket; print(*map(socket.gethostbyname, ('localhost', socket.gethostname())))"
        ran = await run(sandbox, "python3", "-c", program)
        assert ran.stdout == "127.0.0.1 127.0.0.1\n", ran


async def test_processes_of_a_neighbour_do_not_count(docker_image, tmp_path):
    """Uid 1000 is the same in every container: RLIMIT_NPROC would count them all."""
    async with entered(docker_image, tmp_path, "neighbour") as backend:
        one, two = await backend.create(SPEC), await backend.create(SPEC)
        lease = Lease(memory_bytes=256 * MiB, processes=20, cpus=1.0)
        await one.configure(lease)
        await two.configure(lease)
        many = asyncio.create_task(shell(one, "for i in $(seq 15); do sleep 30 & done; wait", wall_time=20.0))
        async with asyncio.timeout(DEADLINE):
            while (await shell(one, "pgrep -c sleep")).stdout != "15\n":  # noqa: ASYNC110 - seen from inside
                await asyncio.sleep(0.1)
        ran = await shell(two, "for i in $(seq 15); do sleep 1 & done; wait; echo all")
        assert (ran.stdout, ran.stderr) == ("all\n", "")
        many.cancel()
        await asyncio.wait([many])


async def test_warm_interpreters_do_not_take_from_the_callers_memory(docker_image, tmp_path):
    """A program with everything preloaded has as much as one without."""
    async with entered(docker_image, tmp_path, "warm") as backend:
        sandbox = await backend.create(SandboxSpec(image="python", warm="program", disk_bytes=16 * MiB))
        await sandbox.configure(Lease(memory_bytes=128 * MiB, processes=64, cpus=1.0))
        ran = await run(sandbox, source="import numpy\nx = bytearray(100 << 20)\nprint(len(x))")
        assert ran.stdout == f"{100 << 20}\n", ran
        assert ran.ended.cpu_time < 0.5, "what the imports took is not the program's"

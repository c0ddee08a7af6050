"""What the service finds out about languages when it starts, on fakes."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from executor_service import probing
from executor_service.errors import BackendUnavailable, Capacity, CodecellError, SandboxFailed
from executor_service.languages import Language, ProbeResult
from executor_service.probing import InSandbox, Patience, find_languages
from executor_service.sandboxes.pool import Pool, PoolSettings
from executor_service.sessions.catalog import Catalog
from executor_service.sessions.policy import Policy
from tests.fakes import LEASE, SPEC, FakeBackend


@dataclass(frozen=True, kw_only=True)
class FakeImage:
    """An image that says what probing asks of it."""

    name: str = "python"
    description: str = ""
    languages: tuple[str, ...] = ("python", "bash")
    kernels: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    limits: dict[str, float] = field(default_factory=dict)
    python_version: str = "3.11"

    @property
    def fingerprint(self) -> str:
        """One build of each."""
        return self.name


class Probes:
    """Stands for `probe`: fails as told, and counts."""

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.broken: dict[str, str] = {}

    async def __call__(self, language: Language, runner: InSandbox, *, on_host: bool = True) -> ProbeResult:
        """Works unless it is broken."""
        self.tried.append(language.name)
        why = self.broken.get(language.name)
        return ProbeResult(language=language, works=why is None, version="1.0", detail=why)


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> Probes:
    """Nothing runs, nothing waits."""
    found = Probes()
    monkeypatch.setattr(probing, "probe", found)
    return found


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    """A pool that keeps nothing."""
    async with FakeBackend() as backend, Pool(backend, PoolSettings(warm=0)) as pool:
        yield pool


async def find(pool: Pool, memory: Path, *images: FakeImage) -> Catalog:
    """What a start finds."""
    return await find_languages(images, pool=pool, policy=Policy(), memory=memory)


async def test_what_was_found_is_remembered_also_while_it_is_not_offered(
    pool: Pool, probes: Probes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each image is tried once, which the log announces, whatever is offered in between."""
    memory = tmp_path / "languages.json"
    caplog.set_level(logging.INFO)
    await find(pool, memory, FakeImage())
    assert caplog.text.count("trying the languages of image python, once") == 1
    await find(pool, memory, FakeImage(name="other"))
    catalog = await find(pool, memory, FakeImage())
    assert [offer.language.name for offer in catalog.offers] == ["python", "bash"]
    assert probes.tried == ["python", "bash"] * 2
    assert caplog.text.count("trying the languages") == 2


async def test_memory_is_bounded(
    pool: Pool, probes: Probes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not used for longest is forgotten first."""
    memory = tmp_path / "languages.json"
    monkeypatch.setattr(probing, "MOST_REMEMBERED", 3)
    memory.write_text(json.dumps({"oldest": None, "old": "1"}))
    await find(pool, memory, FakeImage())
    kept = json.loads(memory.read_text())
    assert len(kept) == 3
    assert next(iter(kept)) == "old"


async def test_an_image_that_lists_no_language_is_refused(pool: Pool, probes: Probes, tmp_path: Path) -> None:
    """Nothing could ever run in it."""
    with pytest.raises(BackendUnavailable, match="image base offers no language"):
        await find(pool, tmp_path / "languages.json", FakeImage(name="base", languages=()))


async def test_an_image_whose_first_language_does_not_work_is_refused(
    pool: Pool, probes: Probes, tmp_path: Path
) -> None:
    """With its reason; another language that does not work is only left out."""
    memory = tmp_path / "languages.json"
    probes.broken = {"bash": "no such file"}
    assert [offer.language.name for offer in (await find(pool, memory, FakeImage())).offers] == ["python"]
    with pytest.raises(BackendUnavailable, match=r"image odd does not run bash.*: no such file"):
        await find(pool, memory, FakeImage(name="odd", languages=("bash", "python")))


@pytest.mark.parametrize("error", [Capacity("full"), SandboxFailed("slow"), BackendUnavailable("busy")])
async def test_a_sandbox_that_is_missing_is_waited_for(
    error: CodecellError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next try may have one; after so many it is told."""
    monkeypatch.setattr(probing, "PAUSES", (0.0, 0.0))
    errors = [error, error]

    async def attempt() -> str:
        if errors:
            raise errors.pop()
        return "done"

    assert await Patience().until_done(attempt) == "done"
    errors = [error] * 3
    with pytest.raises(type(error), match=error.detail):
        await Patience().until_done(attempt)


async def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where failures have cost too much there is no other try."""
    monkeypatch.setattr(probing, "PATIENCE", probing.ACQUIRE_TIME)
    tries = []

    async def attempt() -> None:
        tries.append(1)
        raise Capacity("full")

    with pytest.raises(Capacity):
        await Patience().until_done(attempt)
    assert len(tries) == 1


async def test_a_lease_may_have_a_timeout_of_its_own() -> None:
    """It stands for the pool's."""
    backend = FakeBackend()
    async with backend, Pool(backend, PoolSettings(warm=0, acquire_timeout=60.0)) as pool:
        backend.may_create.clear()
        with pytest.raises(Capacity, match="in time"):
            await pool.acquire(SPEC, LEASE, timeout=0.01)
        backend.may_create.set()

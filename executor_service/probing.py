"""Finds out which languages run here: each one's smoke program must run inside a sandbox.

What was found is remembered in the state directory for as long as the image and the toolchain stay the
same, because compiling for each start would take its time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from executor_service import __version__
from executor_service.errors import BackendUnavailable, Capacity, CodecellError, SandboxFailed
from executor_service.images import Image
from executor_service.languages import ALL, Language, ProbeResult, Ran, probe
from executor_service.languages.base import PROGRAM_PATH
from executor_service.probing_kernels import probe_kernel
from executor_service.sandboxes.pool import Pool
from executor_service.sessions.catalog import Catalog, Offer
from executor_service.sessions.policy import Policy
from executor_service.sessions.requests import RunRequest
from executor_service.sessions.runs import Runs

log = logging.getLogger(__name__)

T = TypeVar("T")

AT_ONCE = 2
PATIENCE = 300.0  # seconds in all that probes may lose because there is no sandbox for them
ACQUIRE_TIME = 95.0  # seconds that one try waits for its sandbox: longer than a backend takes to give up
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before another try
MOST_REMEMBERED = 500
_TIMES = {"wall_time": 60.0, "compile_time": 60.0}


async def find_languages(
    images: Sequence[Image], *, pool: Pool, policy: Policy, memory: Path, on_host: bool = True
) -> Catalog:
    """The languages that work, in the order of `images`. `memory` is the file that remembers.

    With `on_host` toolchains are this host's, else the images' own.

    Raises:
        BackendUnavailable: an image has no language, or does not run the first that it lists.
    """
    wanted = [(image, each) for image in images for each in ALL if each.name in image.languages]
    everything = Catalog([_offer(image, each, None) for image, each in wanted])
    remembered = await asyncio.to_thread(_recall, memory)
    async with Runs(pool=pool, catalog=everything, policy=policy, acquire_timeout=ACQUIRE_TIME) as runs:
        search = _Search(runs, pool=pool, policy=policy, remembered=remembered, on_host=on_host)
        try:
            first = {image.name: await search.first(image) for image in images}
            found = await asyncio.gather(*(_known(first, search, *each) for each in wanted))
        finally:
            await asyncio.to_thread(_remember, memory, remembered, search.working)
    return Catalog([offer for offer in found if offer is not None], images=[image.name for image in images])


async def _known(
    first: Mapping[str, Offer], search: _Search, image: Image, language: Language
) -> Offer | None:
    offer = first[image.name]
    return offer if offer.language is language else await search.look(image, language)


class _Search:
    """Looks at one language of one image after the other, and writes down what works."""

    def __init__(
        self,
        runs: Runs,
        *,
        pool: Pool,
        policy: Policy,
        remembered: Mapping[str, str | None],
        on_host: bool,
    ) -> None:
        self.working: dict[str, str | None] = {}
        self._runs, self._pool, self._policy = runs, pool, policy
        self._remembered = remembered
        self._on_host = on_host
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._patience = Patience()
        self._announced: set[str] = set()
        self._why: dict[tuple[str, str], str | None] = {}

    async def first(self, image: Image) -> Offer:
        """The first language that the image lists. Without it something is wrong that must be told.

        Raises:
            BackendUnavailable: there is none, or it does not work.
        """
        listed = {each.name: each for each in ALL}
        language = next((listed[name] for name in image.languages if name in listed), None)
        if language is None:
            raise BackendUnavailable(f"image {image.name} offers no language: its definition lists none")
        offer = await self.look(image, language)
        if offer is None:
            why = self._why[image.name, language.name]
            raise BackendUnavailable(
                f"image {image.name} does not run {language.name}, the first language that it lists: {why}"
            )
        return offer

    async def look(self, image: Image, language: Language) -> Offer | None:
        """What the image offers of it, if anything."""
        key = await asyncio.to_thread(fingerprint, image, language, on_host=self._on_host)
        if key not in self._remembered:
            self._announce(image)
            level = logging.INFO
            try:
                async with self._gate:
                    runner = InSandbox(self._runs, image.name, self._patience)
                    result = await probe(language, runner, on_host=self._on_host)
            except CodecellError as error:
                result = ProbeResult(language=language, works=False, detail=error.detail)
                level = logging.WARNING  # it is no fault of the language's
            if not result.works:
                self._why[image.name, language.name] = result.detail
                fields = {"image": image.name, "language": language.name, "why": result.detail}
                log.log(level, "language left out", extra=fields)
                return None
            version = result.version
        else:
            version = self._remembered[key]
        self.working[key] = version
        return replace(
            _offer(image, language, version), stateful=await self._keeps_state(image, language, key)
        )

    async def _keeps_state(self, image: Image, language: Language, key: str) -> bool:
        """Whether a kernel of the image executes it; `key` names what is known of the language."""
        spec = language.kernel
        if spec is None or not spec.argv:
            return spec is not None  # Python's is the warm interpreter
        if language.name not in image.kernels:
            return False
        key = hashlib.sha256(f"{key} {spec}".encode()).hexdigest()
        if key not in self._remembered:
            self._announce(image)
            async with self._gate:
                why = await self._kernel(image, language)
            if why is not None:
                log.warning("kernel left out", extra={"language": language.name, "why": why})
                return False
        self.working[key] = None
        return True

    async def _kernel(self, image: Image, language: Language) -> str | None:
        """Why its kernel does not work; None if it does."""

        async def attempt() -> str | None:
            return await probe_kernel(
                image, language, pool=self._pool, policy=self._policy, acquire_timeout=ACQUIRE_TIME
            )

        try:
            return await self._patience.until_done(attempt)
        except CodecellError as error:
            return f"there is no sandbox for it: {error.detail}"

    def _announce(self, image: Image) -> None:
        if image.name not in self._announced:
            self._announced.add(image.name)
            log.info("trying the languages of image %s, once; this takes up to minutes", image.name)


def _offer(image: Image, language: Language, version: str | None) -> Offer:
    return Offer(
        language=language, image=image.name, version=version, limits={**image.limits, **language.limits}
    )


class Patience:
    """Tries again what failed for want of a sandbox, as first ones do on a busy machine.

    What the failures may cost in all is bounded, for everybody who shares this.
    """

    def __init__(self) -> None:
        self._left = PATIENCE

    async def until_done(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` gives. Raises its last error."""
        clock = asyncio.get_running_loop().time
        for pause in PAUSES:
            began = clock()
            try:
                return await attempt()
            except (BackendUnavailable, Capacity, SandboxFailed) as error:
                self._left -= clock() - began + pause
                if self._left < ACQUIRE_TIME:
                    raise
                log.info("no sandbox to try a language in, once more: %s", error.detail)
            await asyncio.sleep(pause)
        return await attempt()


class InSandbox:
    """Runs a language's smoke program, and asks for its version, as a caller would."""

    def __init__(self, runs: Runs, image: str, patience: Patience) -> None:
        self._runs = runs
        self._image = image
        self._patience = patience

    async def program(self, language: Language, source: str) -> Ran:
        """Compile and run. Raises CodecellError."""
        return await self._run(
            RunRequest(language=language.name, code=source, image=self._image, limits=_limits(language))
        )

    async def command(self, language: Language, argv: Sequence[str]) -> Ran:
        """Run a command, by way of bash; where that cannot be, it says nothing."""
        request = RunRequest(
            language="bash", code='exec "$@"', args=tuple(argv), image=self._image, env=language.env,
            limits=_limits(language),
        )  # fmt: skip
        try:
            return await self._run(request)
        except CodecellError:
            return Ran(exit_code=None, stdout="", stderr="")

    async def _run(self, request: RunRequest) -> Ran:
        async def attempt() -> dict[str, Any]:
            operation = await self._runs.start(request, "")
            await operation.wait()
            return operation.fold()

        folded = await self._patience.until_done(attempt)
        failed = folded.get("compile") if folded.get("outcome") == "compile_error" else None
        shown: dict[str, Any] = failed or folded
        return Ran(exit_code=shown["exit_code"], stdout=shown["stdout"], stderr=shown["stderr"])


def _limits(language: Language) -> dict[str, float | None]:
    own = {name: value for name, value in language.limits.items() if name in _TIMES}
    return {**_TIMES, **own}


def fingerprint(image: Image, language: Language, *, on_host: bool = True) -> str:
    """Names what an answer depends on: the service, the image, the language, the host's toolchain."""
    parts = [__version__, image.fingerprint, language.name, repr(language.run), repr(language.compile)]
    parts.append(language.smoke)
    for need in language.needs if on_host else ():
        path = os.path.realpath(shutil.which(need, path=PROGRAM_PATH) or need)
        with contextlib.suppress(OSError):
            status = Path(path).stat()
            parts.append(f"{path} {status.st_mtime_ns} {status.st_size}")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _recall(memory: Path) -> dict[str, str | None]:
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(k): v if isinstance(v, str) else None for k, v in found.items()}


def _remember(memory: Path, before: Mapping[str, str | None], working: Mapping[str, str | None]) -> None:
    """Both, so that an image that is not offered now is known when it is again; what was used last stays."""
    others = {key: version for key, version in before.items() if key not in working}
    kept = dict([*others.items(), *working.items()][-MOST_REMEMBERED:])
    temporary = memory.with_name(f".{memory.name}-{os.getpid()}")
    try:
        temporary.write_text(json.dumps(kept), encoding="utf-8")
        temporary.replace(memory)
    except OSError as error:
        log.warning("what was found out about languages is not remembered: %s", error)

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from executor_service import __version__
from executor_service.errors import CodecellError
from executor_service.images import BuiltImage
from executor_service.languages import ALL, Language, ProbeResult, Ran, probe
from executor_service.languages.base import PROGRAM_PATH
from executor_service.sandboxes.pool import Pool
from executor_service.sessions.catalog import Catalog, Offer
from executor_service.sessions.policy import Policy
from executor_service.sessions.requests import RunRequest
from executor_service.sessions.runs import Runs

log = logging.getLogger(__name__)

AT_ONCE = 2
_TIMES = {"wall_time": 60.0, "compile_time": 60.0}


async def find_languages(
    images: Sequence[BuiltImage], *, pool: Pool, policy: Policy, memory: Path
) -> Catalog:
    """The languages that work, in the order of `images`. `memory` is the file that remembers.

    Raises:
        CodecellError: sandboxes cannot be made at all.
    """
    remembered = await asyncio.to_thread(_recall, memory)
    wanted = [(image, each) for image in images for each in ALL if each.name in image.languages]
    everything = Catalog([_offer(image, each, None) for image, each in wanted])
    gate = asyncio.Semaphore(AT_ONCE)
    async with Runs(pool=pool, catalog=everything, policy=policy) as runs:

        async def look(image: BuiltImage, language: Language) -> tuple[str, ProbeResult]:
            key = await asyncio.to_thread(fingerprint, image, language)
            if key in remembered:
                return key, ProbeResult(language=language, works=True, version=remembered[key])
            async with gate:
                return key, await probe(language, InSandbox(runs, image.name))

        found = await asyncio.gather(*(look(image, language) for image, language in wanted))
    working = {key: result.version for key, result in found if result.works}
    for _, result in found:
        if not result.works:
            log.info("language left out", extra={"language": result.language.name, "why": result.detail})
    await asyncio.to_thread(_remember, memory, working)
    offers = [
        _offer(image, language, result.version)
        for (image, language), (_, result) in zip(wanted, found, strict=True)
        if result.works
    ]
    return Catalog(offers, images=[image.name for image in images])


def _offer(image: BuiltImage, language: Language, version: str | None) -> Offer:
    return Offer(
        language=language, image=image.name, version=version, limits={**image.limits, **language.limits}
    )


class InSandbox:
    """Runs a language's smoke program, and asks for its version, as a caller would."""

    def __init__(self, runs: Runs, image: str) -> None:
        self._runs = runs
        self._image = image

    async def program(self, language: Language, source: str) -> Ran:
        """Compile and run."""
        return await self._run(
            RunRequest(language=language.name, code=source, image=self._image, limits=_limits(language))
        )

    async def command(self, language: Language, argv: Sequence[str]) -> Ran:
        """Run a command, by way of bash."""
        return await self._run(
            RunRequest(
                language="bash", code='exec "$@"', args=tuple(argv), image=self._image, env=language.env,
                limits=_limits(language),
            )
        )  # fmt: skip

    async def _run(self, request: RunRequest) -> Ran:
        try:
            operation = await self._runs.start(request, "")
            await operation.wait()
        except CodecellError as error:
            return Ran(exit_code=None, stdout="", stderr=error.detail)
        folded = operation.fold()
        failed = folded.get("compile") if folded.get("outcome") == "compile_error" else None
        shown: dict[str, Any] = failed or folded
        return Ran(exit_code=shown["exit_code"], stdout=shown["stdout"], stderr=shown["stderr"])


def _limits(language: Language) -> dict[str, float | None]:
    own = {name: value for name, value in language.limits.items() if name in _TIMES}
    return {**_TIMES, **own}


def fingerprint(image: BuiltImage, language: Language) -> str:
    """Names what an answer depends on: the service, the image, the language, the host's toolchain."""
    parts = [__version__, image.directory.name, language.name, repr(language.run), repr(language.compile)]
    parts.append(language.smoke)
    for need in language.needs:
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


def _remember(memory: Path, working: dict[str, str | None]) -> None:
    temporary = memory.with_name(f".{memory.name}-{os.getpid()}")
    try:
        temporary.write_text(json.dumps(working), encoding="utf-8")
        temporary.replace(memory)
    except OSError as error:
        log.warning("what was found out about languages is not remembered: %s", error)

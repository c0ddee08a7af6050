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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from executor_service import __version__
from executor_service.errors import CodecellError
from executor_service.images import Image
from executor_service.languages import ALL, Language, Ran, probe
from executor_service.languages.base import PROGRAM_PATH
from executor_service.probing_kernels import probe_kernel
from executor_service.sandboxes.pool import Pool
from executor_service.sessions.catalog import Catalog, Offer
from executor_service.sessions.policy import Policy
from executor_service.sessions.requests import RunRequest
from executor_service.sessions.runs import Runs

log = logging.getLogger(__name__)

AT_ONCE = 2
_TIMES = {"wall_time": 60.0, "compile_time": 60.0}


async def find_languages(
    images: Sequence[Image], *, pool: Pool, policy: Policy, memory: Path, on_host: bool = True
) -> Catalog:
    """The languages that work, in the order of `images`. `memory` is the file that remembers.

    With `on_host` toolchains are this host's, else the images' own.

    Raises:
        CodecellError: sandboxes cannot be made at all.
    """
    wanted = [(image, each) for image in images for each in ALL if each.name in image.languages]
    everything = Catalog([_offer(image, each, None) for image, each in wanted])
    remembered = await asyncio.to_thread(_recall, memory)
    async with Runs(pool=pool, catalog=everything, policy=policy) as runs:
        search = _Search(runs, pool=pool, policy=policy, remembered=remembered, on_host=on_host)
        found = await asyncio.gather(*(search.look(image, language) for image, language in wanted))
    await asyncio.to_thread(_remember, memory, search.working)
    return Catalog([offer for offer in found if offer is not None], images=[image.name for image in images])


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

    async def look(self, image: Image, language: Language) -> Offer | None:
        """What the image offers of it, if anything."""
        key = await asyncio.to_thread(fingerprint, image, language, on_host=self._on_host)
        if key not in self._remembered:
            async with self._gate:
                result = await probe(language, InSandbox(self._runs, image.name), on_host=self._on_host)
            if not result.works:
                log.info("language left out", extra={"language": language.name, "why": result.detail})
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
            async with self._gate:
                why = await probe_kernel(image, language, pool=self._pool, policy=self._policy)
            if why is not None:
                log.warning("kernel left out", extra={"language": language.name, "why": why})
                return False
        self.working[key] = None
        return True


def _offer(image: Image, language: Language, version: str | None) -> Offer:
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


def _remember(memory: Path, working: dict[str, str | None]) -> None:
    temporary = memory.with_name(f".{memory.name}-{os.getpid()}")
    try:
        temporary.write_text(json.dumps(working), encoding="utf-8")
        temporary.replace(memory)
    except OSError as error:
        log.warning("what was found out about languages is not remembered: %s", error)

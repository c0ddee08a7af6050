"""The code executor of AutoGen 0.4 and later: `autogen_core.code_executor.CodeExecutor`, a component."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Annotated, Self

from autogen_core import CancellationToken, Component
from autogen_core.code_executor import CodeBlock, CodeExecutor, CodeResult
from pydantic import BaseModel, BeforeValidator, ConfigDict

from agent_client.executors import RemoteCodeExecutor
from agent_client.executors.remote import DEFAULT_TIMEOUT
from agent_client.integrations._sandbox import Sandbox, own_block
from agent_client.messages import Artifact


class CodecellConfig(BaseModel):
    """The executor in JSON: `RemoteCodeExecutor`'s options, but for the key, which is no one's to read."""

    model_config = ConfigDict(extra="forbid")

    image: str | None = None
    limits: dict[str, int | float | None] | None = None
    network: bool | dict[str, list[str]] = False
    timeout: float = DEFAULT_TIMEOUT
    work_dir: Annotated[str, BeforeValidator(os.fspath)] | None = None
    backend: str | None = None
    base_url: str | None = None


class CodecellCodeExecutor(CodeExecutor, Component[CodecellConfig]):
    """Runs code in a session of a Codecell service.

    Options as for `CodecellConfig`; the API key is `api_key`, else `CODECELL_API_KEY`.
    """

    component_config_schema = CodecellConfig
    component_provider_override = "agent_client.integrations.autogen.CodecellCodeExecutor"

    def __init__(self, *, api_key: str | None = None, **options: object) -> None:
        self._config = CodecellConfig.model_validate(options)
        self._sandbox = Sandbox(RemoteCodeExecutor(api_key=api_key, **self._config.model_dump()))

    @property
    def artifacts(self) -> list[Artifact]:
        """Files and images that code made since the start or the last restart, each as it was last."""
        return self._sandbox.artifacts

    async def execute_code_blocks(
        self, code_blocks: Sequence[CodeBlock], cancellation_token: CancellationToken
    ) -> CodeResult:
        """Run the blocks, up to the first that fails; the token stops the code at once.

        Raises:
            asyncio.CancelledError: the token was used.
        """
        task = asyncio.ensure_future(self._sandbox.execute_code_blocks([own_block(b) for b in code_blocks]))
        cancellation_token.link_future(task)
        result = await task
        return CodeResult(exit_code=result.exit_code, output=result.output)

    async def start(self) -> None:
        """Nothing yet: the session is opened at the first block."""

    async def stop(self) -> None:
        """Close the session."""
        await self._sandbox.close()

    async def restart(self) -> None:
        """Start over, in a new session."""
        await self._sandbox.restart()

    def _to_config(self) -> CodecellConfig:
        return self._config

    @classmethod
    def _from_config(cls, config: CodecellConfig) -> Self:
        return cls(**config.model_dump())

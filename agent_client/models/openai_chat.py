"""Any endpoint that speaks OpenAI's chat completions, on the `openai` package (imported at first use)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent_client.blocking import PerLoop
from agent_client.errors import ModelAuthenticationFailed, ModelError, ModelUnreachable
from agent_client.messages import Message, ToolCall
from agent_client.models.base import ModelResponse, TextSink
from agent_client.usage import Usage

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion

Json = Any
DEFAULT_TIMEOUT = 120.0


class OpenAIChatCompletionClient:
    """`model` at `base_url` (else `OPENAI_BASE_URL`, else OpenAI) with `api_key` (else `OPENAI_API_KEY`).

    `price` is (per 1,000 prompt tokens, per 1,000 completion tokens) and makes costs known. Further
    keyword arguments, such as `temperature=0`, go into every request.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        max_retries: int = 2,
        price: tuple[float, float] | None = None,
        **request: Json,
    ) -> None:
        self.model = model
        self._api_key = api_key
        self._base_url = base_url
        self._timeout = timeout
        self._max_retries = max_retries
        self._price = price
        self._request = request
        self._ask_usage = True
        self._client: PerLoop[AsyncOpenAI] = PerLoop(self._new_client)

    async def create(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Json]] = (),
        stream: TextSink | None = None,
    ) -> ModelResponse:
        """One chat completion, streamed if `stream` is given.

        Raises:
            ModelError: and its subclasses, when the endpoint fails or refuses.
        """
        import openai

        asked = {**self._request, "model": self.model, "messages": [_chat_message(m) for m in messages]}
        if tools:
            asked["tools"] = list(tools)
        try:
            if stream is None:
                return self._response(await self._client.get().chat.completions.create(**asked))
            return await self._streamed(asked, stream)
        except openai.OpenAIError as error:
            raise self._translate(error) from error

    async def close(self) -> None:
        """Close the running loop's connections; the next call opens new ones."""
        client = self._client.take()
        if client is not None:
            await client.close()

    async def _streamed(self, asked: dict[str, Json], stream: TextSink) -> ModelResponse:
        import openai

        options: dict[str, Json] = {"stream_options": {"include_usage": True}} if self._ask_usage else {}
        try:
            events = await self._client.get().chat.completions.create(**asked, **options, stream=True)
        except openai.BadRequestError as error:
            if not self._ask_usage or "stream_options" not in str(error):
                raise
            self._ask_usage = False  # an endpoint that does not know the option
            return await self._streamed(asked, stream)
        text: list[str] = []
        calls: dict[int, dict[str, Any]] = {}
        finish, model, used = "", self.model, None
        async with events:
            async for chunk in events:
                model, used = chunk.model or model, chunk.usage or used
                for choice in chunk.choices[:1]:
                    finish = choice.finish_reason or finish
                    if choice.delta.content:
                        text.append(choice.delta.content)
                        stream(choice.delta.content)
                    for call in choice.delta.tool_calls or ():
                        _add_call(calls, call)
        if not finish and not text:
            raise ModelError(f"{self._where()} ended its stream without a word")
        return ModelResponse(
            content="".join(text),
            usage=self._usage(used),
            model=model,
            finish_reason=finish or "stop",
            tool_calls=tuple(_tool_call(calls[index]) for index in sorted(calls)),
        )

    def _response(self, completion: ChatCompletion) -> ModelResponse:
        if not getattr(completion, "choices", None):
            raise ModelError(f"{self._where()} answered without choices: {str(completion)[:300]}")
        choice = completion.choices[0]
        return ModelResponse(
            content=choice.message.content or "",
            usage=self._usage(completion.usage),
            model=completion.model,
            finish_reason=choice.finish_reason,
            tool_calls=tuple(_tool_call(call.model_dump()) for call in choice.message.tool_calls or ()),
        )

    def _usage(self, used: Any) -> Usage:
        prompt = int(getattr(used, "prompt_tokens", 0) or 0)
        completion = int(getattr(used, "completion_tokens", 0) or 0)
        told = getattr(used, "cost", None)  # some routers tell it
        cost = float(told) if isinstance(told, int | float) else 0.0
        if self._price is not None:
            cost = (prompt * self._price[0] + completion * self._price[1]) / 1000
        return Usage(requests=1, prompt_tokens=prompt, completion_tokens=completion, cost=cost)

    def _new_client(self) -> AsyncOpenAI:
        import openai

        key = self._api_key or os.environ.get("OPENAI_API_KEY")
        if not key and (self._base_url or os.environ.get("OPENAI_BASE_URL")):
            key = "none"  # local endpoints want none, the package insists on one
        if not key:
            raise ModelAuthenticationFailed(
                "No key for the model: set OPENAI_API_KEY, or pass api_key= (base_url= for an endpoint that"
                " is not OpenAI's)."
            )
        return openai.AsyncOpenAI(
            api_key=key, base_url=self._base_url, timeout=self._timeout, max_retries=self._max_retries
        )

    def _where(self) -> str:
        return f"The model endpoint {self._base_url or os.environ.get('OPENAI_BASE_URL') or 'api.openai.com'}"

    def _translate(self, error: Exception) -> ModelError:
        import openai

        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return ModelAuthenticationFailed(
                f"{self._where()} refused the key: check OPENAI_API_KEY (or api_key=). It said: {error}"
            )
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__
            return ModelUnreachable(
                f"{self._where()} does not answer ({cause or error}): check OPENAI_BASE_URL (or base_url=)."
            )
        if isinstance(error, openai.NotFoundError):
            return ModelError(
                f"{self._where()} knows no model {self.model!r}, or the URL is wrong. It said: {error}"
            )
        return ModelError(f"{self._where()} failed: {error}")


def _chat_message(message: Message) -> dict[str, Json]:
    """As the API wants it; a name only where its characters are allowed."""
    sent = message.to_dict()
    name = sent.pop("name", None)
    if name:
        sent["name"] = re.sub(r"[^a-zA-Z0-9_-]", "_", str(name))[:64]
    return sent


def _tool_call(call: Mapping[str, Any]) -> ToolCall:
    function = call.get("function") or {}
    return ToolCall(
        id=call["id"], name=function.get("name") or "", arguments=function.get("arguments") or "{}"
    )


def _add_call(calls: dict[int, dict[str, Any]], piece: Any) -> None:
    """Put a streamed piece of a tool call to its call."""
    call = calls.setdefault(
        piece.index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
    )
    call["id"] = piece.id or call["id"]
    if piece.function is not None:
        call["function"]["name"] += piece.function.name or ""
        call["function"]["arguments"] += piece.function.arguments or ""

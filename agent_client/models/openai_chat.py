"""Any endpoint that speaks OpenAI's chat completions, on the `openai` package (imported at first use)."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agent_client import errors
from agent_client.blocking import PerLoop
from agent_client.messages import Message
from agent_client.models.base import ModelResponse, TextSink
from agent_client.models.chat_messages import chat_messages
from agent_client.models.chat_reply import Reply
from agent_client.models.prices import sees_images
from agent_client.output_text import label

if TYPE_CHECKING:
    from openai import AsyncOpenAI, AsyncStream
    from openai.types.chat import ChatCompletionChunk

Json = Any
DEFAULT_TIMEOUT = 120.0
CONNECT_TIME = 10.0
# What is the connection's and not a request's; Azure's are there with `azure_endpoint`.
_CONNECTION = frozenset({"organization", "project", "default_headers", "default_query", "http_client"})
_AZURE = frozenset({"azure_endpoint", "azure_deployment", "api_version", "azure_ad_token_provider"})
_REFUSED_KEY = (errors.ModelAuthenticationFailed, "refused the key: check OPENAI_API_KEY (or api_key=)")
_WRONG_REQUEST = (errors.ModelRequestRefused, "refused the request")
_BY_STATUS: Mapping[int, tuple[type[errors.ModelError], str]] = {
    **dict.fromkeys((400, 413, 422), _WRONG_REQUEST),
    **dict.fromkeys((401, 403), _REFUSED_KEY),
    404: (errors.ModelError, "is not known there, or the URL is wrong"),
    429: (errors.ModelRateLimited, "wants to be asked less often"),
}
_OURS = frozenset({"stream", "stream_options", "model_capabilities"})


class OpenAIChatCompletionClient:
    """`model` at `base_url` (else `OPENAI_BASE_URL`, else OpenAI) with `api_key` (else `OPENAI_API_KEY`).

    `timeout` is in seconds, for each piece of an answer. Rate limits, server errors and lost connections
    are tried again `max_retries` times; a wait that the endpoint asks for is kept up to two minutes, and is
    an error beyond. `price` is (per 1,000 prompt tokens, per 1,000 completion tokens), for models that are
    not in the table of prices. `vision` (or `model_info={"vision": ...}`) says whether the model is sent
    images; it is known for well-known models, else False. Further keyword arguments are the connection's
    (`organization`, `default_headers`, ...) or go into every request (`temperature=0`).
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float | None = None,
        max_retries: int = 2,
        price: Sequence[float] | None = None,
        vision: bool | None = None,
        model_info: Mapping[str, Json] | None = None,
        **options: Json,
    ) -> None:
        declared = vision if vision is not None else (model_info or {}).get("vision")
        self.model = model
        self.vision = sees_images(model) if declared is None else bool(declared)
        self._api_key = api_key
        self._base_url = base_url
        self._timeout = timeout or DEFAULT_TIMEOUT
        self._price = None if price is None else (float(price[0]), float(price[1]))
        names = _CONNECTION | _AZURE if "azure_endpoint" in options else _CONNECTION
        self._connection = {"max_retries": max_retries} | {k: v for k, v in options.items() if k in names}
        self._request = {k: v for k, v in options.items() if k not in names | _OURS and v is not None}
        self._ask_usage = True
        self._under_way = 0
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
        sent = chat_messages(messages, vision=self.vision)
        asked = {**self._request, "model": self.model, "messages": sent}
        if tools:
            asked["tools"] = list(tools)
        else:
            asked.pop("parallel_tool_calls", None)  # endpoints refuse it without tools
        reply = Reply()
        self._under_way += 1
        try:
            async with aclosing(self._pieces(asked, reply, streamed=stream is not None)) as pieces:
                async for text in pieces:
                    if text and stream is not None:
                        stream(text)
        finally:
            self._under_way -= 1
        return reply.response(self.model, self._price)

    async def close(self) -> None:
        """Close the running loop's connections, unless others are being answered over them; the next call
        opens new ones.
        """
        client = None if self._under_way else self._client.take()
        if client is not None:
            await client.close()

    async def _pieces(self, asked: dict[str, Json], reply: Reply, *, streamed: bool) -> AsyncGenerator[str]:
        """Take the answer into `reply`; the pieces of its text. What fails on the way is a `ModelError`."""
        import openai

        try:
            if not streamed:
                answer = await self._client.get().chat.completions.create(**asked)
                yield reply.add(answer)
                if not reply.spoke:
                    raise errors.ModelError(f"{self._who()} answered without a message: {self._said(answer)}")
                return
            async with await self._open(asked) as chunks:
                async for chunk in chunks:
                    yield reply.add(chunk)
                    if reply.full:
                        return
                if not reply.spoke:
                    kind = chunks.response.headers.get("content-type")
                    raise errors.ModelError(f"{self._who()} ended its stream without a word (it is {kind})")
                if not reply.ended:
                    raise errors.ModelUnreachable(f"{self._who()} broke off in the middle of its reply")
        except errors.ModelError:
            raise
        except openai.OpenAIError as error:  # what it would show beside the message may hold the key
            raise self._translate(error, begun=reply.spoke) from None
        except Exception as error:  # the package trusts endpoints to keep to their types
            what = f"{type(error).__name__}: {self._said(error)}"
            raise errors.ModelError(f"{self._who()} was not asked or not understood ({what})") from error

    async def _open(self, asked: dict[str, Json]) -> AsyncStream[ChatCompletionChunk]:
        import openai

        completions = self._client.get().chat.completions
        if self._ask_usage:
            usage: Json = {"include_usage": True}
            try:
                return await completions.create(**asked, stream=True, stream_options=usage)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if "stream_options" not in f"{error} {error.body}":
                    raise
                self._ask_usage = False  # an endpoint that does not know the option
        return await completions.create(**asked, stream=True)

    def _new_client(self) -> AsyncOpenAI:
        import openai

        timeout = openai.Timeout(self._timeout, connect=min(self._timeout, CONNECT_TIME))
        if "azure_endpoint" in self._connection:
            return openai.AsyncAzureOpenAI(api_key=self._api_key, timeout=timeout, **self._connection)
        key = self._api_key or os.environ.get("OPENAI_API_KEY")
        if not key and (self._base_url or os.environ.get("OPENAI_BASE_URL")):
            key = "none"  # local endpoints want none, the package insists on one
        if not key:
            raise errors.ModelAuthenticationFailed(
                "No key for the model: set OPENAI_API_KEY, or pass api_key= (base_url= for an endpoint that"
                " is not OpenAI's)."
            )
        return openai.AsyncOpenAI(api_key=key, base_url=self._base_url, timeout=timeout, **self._connection)

    def _who(self) -> str:
        """The model and its endpoint, without what a URL may hide."""
        url = self._connection.get("azure_endpoint") or self._base_url or os.environ.get("OPENAI_BASE_URL")
        parts = urlsplit(url or "https://api.openai.com/v1")
        return f"The model {self.model!r} at {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def _said(self, answer: object) -> str:
        """An error or an answer on one short line, without the key that it may repeat, or a page's tags."""
        text = str(answer)[:100_000]
        for key in (self._api_key, os.environ.get("OPENAI_API_KEY"), os.environ.get("AZURE_OPENAI_API_KEY")):
            text = text.replace(key, "***") if key and len(key) > 7 else text
        if text.lstrip().startswith("<"):
            text = re.sub(r"(?is)<(script|style)\b.*?</\1>|<[^>]*>", " ", text)
        return label(text, limit=300) or "nothing"

    def _translate(self, error: Exception, *, begun: bool) -> errors.ModelError:
        import openai

        who, said = self._who(), self._said(error)
        if isinstance(error, openai.APIStatusError):
            told: Any = error.body  # the package's own text leaves out what has not OpenAI's form
            said = self._said((told.get("message") or told) if isinstance(told, Mapping) else told)
            kind, what = _BY_STATUS.get(error.status_code, (errors.ModelError, "failed"))
            wait = _seconds(error.response.headers)
            later = f", try again in {wait:.0f} s" if wait else ""
            return kind(f"{who} {what} (status {error.status_code}{later}): {said}", retry_after=wait)
        if isinstance(error, openai.APITimeoutError):
            late = "went silent" if begun else "did not answer"
            return errors.ModelTimeout(f"{who} {late} for {self._timeout:g} s (timeout=)")
        if isinstance(error, openai.APIConnectionError):
            lost = "broke off in the middle of its reply" if begun else "does not answer"
            why = self._said(error.__cause__ or error)
            return errors.ModelUnreachable(f"{who} {lost} ({why}): check OPENAI_BASE_URL (or base_url=)")
        return errors.ModelError(f"{who} failed: {said}")


def _seconds(headers: Mapping[str, str]) -> float | None:
    """The wait that `Retry-After` asks for (RFC 9110, 10.2.3); a date counts as none."""
    with suppress(ValueError):
        return max(0.0, float(headers.get("retry-after", "")))
    return None

"""One request to a model, within limits of time, size and tokens that the endpoint cannot lift.

The client of OpenAI's own library does the talking: it knows Azure's addresses, and tries again after 429, 5xx and lost
connections, as late as Retry-After says. It runs in an event loop of a thread of its own, so that even an endpoint that
sends a byte now and then is left when the time is up.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
from pydantic import BaseModel, ValidationError

from optimizer.clock import Deadline
from plugins.llm_advisor.settings import LlmSettings

#: Largest answer that is read; the endpoint may not keep to the limit on tokens.
MAX_ANSWER_BYTES = 1_000_000
_GRACE_S = 1.0
_POLL_S = 0.05
#: Requests that an endpoint may refuse because of what was asked for, before we give up.
_MAX_REFUSALS = 4
_MODES = ("json_schema", "json_object", "text")


class ModelError(Exception):
    """The model gave no answer. The message is for users: no key, no path, nothing that the endpoint said."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Parameters:
        text: the model's words, possibly none.
        tokens: of prompt and answer as the endpoint counts them, None where it does not.
        cut: True when the answer reached the limit of tokens.
        refused: True when the model declined to answer.
    """

    text: str
    tokens: tuple[int, int] | None
    cut: bool
    refused: bool


class _Part(BaseModel):
    text: str = ""


class _Message(BaseModel):
    content: str | list[_Part] | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None


def ask(
    settings: LlmSettings, messages: list[dict[str, str]], schema: dict[str, Any], max_tokens: int, deadline: Deadline
) -> Reply:
    """Send one prompt.

    Parameters:
        settings: where to.
        messages: the conversation so far.
        schema: JSON schema of the answer.
        max_tokens: limit for the answer.
        deadline: to be back by, tries included.

    Errors: `ModelError`.
    """
    future: Future[Reply] = Future()

    def work() -> None:
        try:
            future.set_result(asyncio.run(_within(settings, messages, schema, max_tokens, deadline)))
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            future.set_exception(error)

    # A daemon, since a name that does not resolve may hold it for longer than anybody waits.
    threading.Thread(target=copy_context().run, args=(work,), name="planproof-llm", daemon=True).start()
    try:
        return future.result(timeout=deadline.remaining_ms / 1000 + _GRACE_S)
    except FutureTimeoutError:
        raise _late(settings) from None


async def _within(
    settings: LlmSettings, messages: list[dict[str, str]], schema: dict[str, Any], max_tokens: int, deadline: Deadline
) -> Reply:
    task = asyncio.ensure_future(_ask(settings, messages, schema, max_tokens))
    while not task.done():
        await asyncio.wait({task}, timeout=_POLL_S)
        if deadline.passed and not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_GRACE_S)
            raise _late(settings)
    return task.result()


async def _ask(settings: LlmSettings, messages: list[dict[str, str]], schema: dict[str, Any], max_tokens: int) -> Reply:
    asked: dict[str, Any] = {settings.limit_name: max_tokens}
    if settings.temperature is not None:
        asked["temperature"] = settings.temperature
    if settings.seed is not None:
        asked["seed"] = settings.seed
    modes = list(_MODES if settings.structured_output == "auto" else (settings.structured_output,))
    try:
        async with _client(settings) as client:
            for _ in range(_MAX_REFUSALS):
                try:
                    body = await _body(client, settings, messages, asked | _form(modes[0], schema))
                    return _reply(settings, body)
                except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                    if not _eased(error, asked, modes):
                        raise
        raise ModelError(f"{settings.host} refuses every form of the request")
    except openai.OpenAIError as error:
        raise ModelError(_trouble(error, settings)) from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise ModelError(f"the connection to {settings.host} failed ({type(error).__name__})") from None
    except (ValueError, TypeError) as error:  # a setting that the client cannot send; it may quote the key
        raise ModelError(f"the request to {settings.host} cannot be made ({type(error).__name__})") from None


def _client(settings: LlmSettings) -> openai.AsyncOpenAI:
    key = settings.api_key.get_secret_value() if settings.api_key is not None else "none"
    limit = httpx2.Timeout(settings.timeout_ms / 1000)
    # A redirect would carry the prompt to an address that nobody configured.
    transport = openai.DefaultAsyncHttpxClient(
        follow_redirects=False, timeout=limit, event_hooks={"response": [_bounded]}
    )
    if settings.provider == "azure":
        return openai.AsyncAzureOpenAI(
            azure_endpoint=settings.endpoint,
            azure_deployment=settings.deployment or settings.model,
            api_version=settings.api_version,
            api_key=key,
            max_retries=settings.retries,
            timeout=limit,
            http_client=transport,
        )
    return openai.AsyncOpenAI(
        base_url=settings.endpoint, api_key=key, max_retries=settings.retries, timeout=limit, http_client=transport
    )


def _form(mode: str, schema: dict[str, Any]) -> dict[str, Any]:
    if mode == "json_schema":
        form = {"name": "proposals", "schema": schema, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": form}}
    return {"response_format": {"type": "json_object"}} if mode == "json_object" else {}


class _Bounded(httpx2.AsyncByteStream):
    """A body of which no more is read than an answer may have; errors have bodies too."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise httpx2.ReadError(f"more than {MAX_ANSWER_BYTES:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bounded(response: httpx2.Response) -> None:
    if isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _Bounded(response.stream)


async def _body(
    client: openai.AsyncOpenAI, settings: LlmSettings, messages: list[dict[str, str]], asked: dict[str, Any]
) -> bytes:
    """The answer's bytes, unpacked piece by piece so that no endpoint can fill the memory."""
    create: Any = client.chat.completions.with_streaming_response.create
    body = bytearray()
    async with create(model=settings.model, messages=messages, **asked) as response:
        if response.status_code != 200:
            raise ModelError(f"{settings.host} answered with status {response.status_code}")
        async for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise ModelError(f"the answer of {settings.host} is longer than {MAX_ANSWER_BYTES:,} bytes")
    return bytes(body)


def _reply(settings: LlmSettings, body: bytes) -> Reply:
    try:
        completion = _Completion.model_validate(json.loads(body))
        choice = completion.choices[0]
    except (ValueError, RecursionError, ValidationError, IndexError):
        raise ModelError(f"what {settings.host} answered is not a chat completion") from None
    content = choice.message.content
    text = content if isinstance(content, str) else "".join(part.text for part in content or ())
    usage = completion.usage
    return Reply(
        text=text.encode("utf-8", "replace").decode(),  # JSON can spell what is no character
        tokens=(max(0, usage.prompt_tokens), max(0, usage.completion_tokens)) if usage is not None else None,
        cut=choice.finish_reason == "length",
        refused=bool(choice.message.refusal) or choice.finish_reason == "content_filter",
    )


def _eased(error: openai.APIStatusError, asked: dict[str, Any], modes: list[str]) -> bool:
    """Ask for less where an endpoint says that it does not know what was asked for; False when nothing is left."""
    blamed = str(getattr(error, "param", "") or "") + str(error.body or "")
    for name in ("temperature", "seed"):
        if name in asked and name in blamed:
            del asked[name]
            return True
    for name, other in (("max_completion_tokens", "max_tokens"), ("max_tokens", "max_completion_tokens")):
        if name in asked and other not in asked and name in blamed:
            asked[other] = asked.pop(name)
            return True
    if len(modes) > 1:
        del modes[0]
        return True
    return False


def _late(settings: LlmSettings) -> ModelError:
    return ModelError(f"{settings.host} did not answer in time")


def _trouble(error: openai.OpenAIError, settings: LlmSettings) -> str:
    host = settings.host
    match error:
        case openai.APITimeoutError():
            return str(_late(settings))
        case openai.APIConnectionError():
            return f"{host} cannot be reached"
        case openai.RateLimitError():
            return f"{host} answered 429: too many requests, or no quota is left"
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            return f"{host} answered {error.status_code}: check PLANPROOF_LLM_API_KEY and what it may use"
        case openai.NotFoundError():
            return f"{host} answered 404: check PLANPROOF_LLM_BASE_URL and PLANPROOF_LLM_MODEL"
        case openai.APIStatusError():
            return f"{host} answered with status {error.status_code}"
        case _:
            return f"the request to {host} failed ({type(error).__name__})"

"""The real openai and anthropic SDKs on a durable transport and on a plain one, of either library, sync and async."""

import asyncio
import importlib
import inspect
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

import anthropic
import openai

from tests.client.conftest import QUICK
from tests.client.wire_formats import (
    anthropic_error,
    anthropic_events,
    anthropic_message,
    anthropic_tool_events,
    openai_completion,
    openai_error,
    openai_events,
    openai_responses_events,
    openai_tool_events,
)
from tests.kit.scripts import Part, chunked, fixed

__all__ = ["KINDS", "Kind", "Sdk"]

MESSAGES = [{"role": "user", "content": "Say hello"}]
CHAT = {"model": "gpt-4o", "messages": MESSAGES}
TALK = {"model": "claude", "messages": MESSAGES, "max_tokens": 64}


@dataclass(frozen=True)
class Kind:
    """An SDK, a library that it takes clients of, and whether it is the asynchronous one."""

    name: str
    library: str
    asynchronous: bool

    def __str__(self) -> str:
        return f"{self.name}-{self.library}-{'async' if self.asynchronous else 'sync'}"


KINDS = [
    Kind(name, library, asynchronous)
    for name, library in (("openai", "httpx2"), ("openai", "httpx"), ("anthropic", "httpx2"))
    for asynchronous in (False, True)
]


@cache
def _tls(library: ModuleType) -> ssl.SSLContext:
    """Made once: it takes longer than a test."""
    context: ssl.SSLContext = library.create_ssl_context()
    return context


Answer = list[bytes] | list[Part]
Call = Callable[[Any], Any]


@dataclass
class Sdk:
    """Clients of one kind, and what one asks them and has the upstream answer. Runs coroutines itself."""

    kind: Kind
    runner: asyncio.Runner = field(default_factory=asyncio.Runner)
    open: list[Any] = field(default_factory=list)

    def client(self, url: str, *, proxy: str | None = None, secret: str = "", **options: Any) -> Any:
        """An SDK client for this base URL, straight or through the proxy; option `durable` is for the transport."""
        library = importlib.import_module(self.kind.library)
        durable = {"retry": QUICK} | options.pop("durable", {})
        transport = None
        if proxy is not None:
            module = importlib.import_module(f"proxy.client.{self.kind.library}")
            make = module.AsyncDurableTransport if self.kind.asynchronous else module.DurableTransport
            transport = make(proxy, proxy_authorization=secret, **durable)
        http = (library.AsyncClient if self.kind.asynchronous else library.Client)(
            transport=transport, timeout=30, trust_env=False, verify=_tls(library)
        )
        maker = getattr(
            {"openai": openai, "anthropic": anthropic}[self.kind.name],
            ("Async" if self.kind.asynchronous else "")
            + {"openai": "OpenAI", "anthropic": "Anthropic"}[self.kind.name],
        )
        self.open.append(maker(base_url=url, api_key="sk-key", http_client=http, **options))
        return self.open[-1]

    def run(self, value: Any) -> Any:
        """The value, or what it is when awaited."""

        async def awaited() -> Any:
            return await value

        return self.runner.run(awaited()) if inspect.isawaitable(value) else value

    def items(self, stream: Any) -> list[Any]:
        """Everything that a stream gives."""

        async def all_of() -> list[Any]:
            return [item async for item in stream]

        return self.runner.run(all_of()) if self.kind.asynchronous else list(stream)

    def first(self, stream: Any, count: int = 1) -> list[Any]:
        """The first items."""

        async def some() -> list[Any]:
            return [await anext(stream) for _ in range(count)]

        return self.runner.run(some()) if self.kind.asynchronous else [next(stream) for _ in range(count)]

    def close(self) -> None:
        """Close every client."""
        for client in self.open:
            self.run(client.close())
        self.runner.close()

    # What is asked, and answered

    def streamed(self, client: Any, **options: Any) -> Any:
        """Ask for a stream."""
        if self.kind.name == "openai":
            return self.run(client.chat.completions.create(**CHAT, stream=True, **options))
        return self.run(client.messages.create(**TALK, stream=True, **options))

    def whole(self, client: Any, **options: Any) -> Any:
        """Ask for one answer."""
        if self.kind.name == "openai":
            return self.run(client.chat.completions.create(**CHAT, **options))
        return self.run(client.messages.create(**TALK, **options))

    def resource(self, client: Any) -> Any:
        """What has `create`, `with_raw_response` and `with_streaming_response`, and takes `arguments`."""
        return client.chat.completions if self.kind.name == "openai" else client.messages

    @property
    def arguments(self) -> dict[str, Any]:
        """Of `create`."""
        return CHAT if self.kind.name == "openai" else TALK

    def events(self, *tokens: str) -> list[bytes]:
        """The events of a streamed answer."""
        return openai_events(*tokens) if self.kind.name == "openai" else anthropic_events(*tokens)

    def stream_script(self, *tokens: str) -> Answer:
        """An upstream's streamed answer."""
        return chunked(*self.events(*tokens), fields=[("x-request-id", "req_7"), ("request-id", "req_7")])

    def tool_script(self) -> Answer:
        """An upstream's streamed answer that uses a tool."""
        return chunked(*(openai_tool_events() if self.kind.name == "openai" else anthropic_tool_events()))

    def whole_script(self, text: str) -> Answer:
        """An upstream's answer in one piece."""
        body = openai_completion(text) if self.kind.name == "openai" else anthropic_message(text)
        return fixed(body, ("x-request-id", "req_7"), ("request-id", "req_7"), content_type="application/json")

    def responses_script(self, text: str) -> Answer:
        """OpenAI's other way of streaming."""
        return chunked(*openai_responses_events(text))

    def error_script(self, status: int, *fields: tuple[str, str]) -> Answer:
        """An upstream's error."""
        body = openai_error("code") if self.kind.name == "openai" else anthropic_error("some_error")
        ids = (("x-request-id", "req_7"), ("request-id", "req_7"))
        return fixed(body, *ids, *fields, status=status, content_type="application/json")

    @property
    def errors(self) -> Any:
        """The SDK's module, for its exceptions."""
        return openai if self.kind.name == "openai" else anthropic


def dumped(items: list[Any]) -> list[Any]:
    """Models as plain values."""
    return [item.model_dump() for item in items]

"""An agent framework over the openai SDK over a durable transport: tools, streaming, one upstream call a step."""

import subprocess
import venv
from pathlib import Path

import pytest

from tests.client.scripted_proxy import ScriptedProxy
from tests.client.test_isolation import python
from tests.client.wire_formats import openai_events, openai_tool_events
from tests.kit.scripts import chunked
from tests.kit.upstream import Upstream

AGENT = """
import asyncio, sys
import httpx2
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from proxy.client import durable_request
from proxy.client.httpx2 import AsyncDurableTransport

proxy, secret, upstream = sys.argv[1:]

async def main():
    transport = AsyncDurableTransport(proxy, proxy_authorization=secret)
    async with httpx2.AsyncClient(transport=transport, timeout=60) as http:
        client = AsyncOpenAI(base_url=upstream, api_key="sk", http_client=http)
        agent = Agent(OpenAIChatModel("gpt-4o", provider=OpenAIProvider(openai_client=client)))

        @agent.tool_plain
        def weather(city: str) -> str:
            return f"sunny in {city}"

        with durable_request("run-1"):
            async with agent.run_stream("How is the weather?") as result:
                async for text in result.stream_text(delta=True):
                    print(text, end="", flush=True)

asyncio.run(main())
"""


@pytest.mark.slow
def test_pydantic_ai_runs_tools_and_streams_through_the_proxy(proxy: ScriptedProxy, tmp_path: Path) -> None:
    venv.create(tmp_path / "agents", with_pip=True)
    interpreter = str(tmp_path / "agents" / "bin" / "python")
    install = [interpreter, "-m", "pip", "install", "--quiet", "pydantic-ai-slim[openai]"]
    subprocess.run(install, check=True, timeout=300)
    proxy.forwards = True
    with Upstream() as upstream:
        route = upstream.serve(chunked(*openai_tool_events()), chunked(*openai_events("Sun", "ny.")), path="")
        said = python(AGENT, proxy.url, proxy.secret, route.url, interpreter=interpreter)
        assert said == "Sunny."
        assert route.count == 2
        assert b"sunny in K\\u00f6ln" in route.requests[1].body or "sunny in Köln".encode() in route.requests[1].body

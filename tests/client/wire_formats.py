"""What OpenAI's and Anthropic's services put on the wire, as far as their SDKs look at it."""

import json
from collections.abc import Iterable
from typing import Any

__all__ = [
    "anthropic_error", "anthropic_events", "anthropic_message", "anthropic_tool_events", "openai_completion",
    "openai_error", "openai_events", "openai_responses_events", "openai_tool_events", "sse",
]  # fmt: skip

CHAT: dict[str, Any] = {"id": "chatcmpl-1", "created": 1700000000, "model": "gpt-4o"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def sse(events: Iterable[dict[str, Any]], *, named: bool = False) -> list[bytes]:
    """Each event as it is sent; with its type as its name when `named`."""
    return [
        (f"event: {event['type']}\n" if named else "").encode() + b"data: %b\n\n" % json.dumps(event).encode()
        for event in events
    ]


def openai_completion(text: str) -> bytes:
    """A chat completion that was not streamed."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps(CHAT | {"object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()


def _chunks(deltas: Iterable[dict[str, Any]], finish: str) -> list[bytes]:
    chunk = CHAT | {"object": "chat.completion.chunk"}
    steps: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    steps.append({"index": 0, "delta": {}, "finish_reason": finish})
    return [*sse(chunk | {"choices": [step]} for step in steps), b"data: [DONE]\n\n"]


def openai_events(*tokens: str) -> list[bytes]:
    """A streamed chat completion."""
    return _chunks([{"role": "assistant", "content": ""}, *({"content": token} for token in tokens)], "stop")


def openai_tool_events() -> list[bytes]:
    """A streamed chat completion that calls a tool."""
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    parts = [{"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in ('{"city"', ': "Köln"}')]
    return _chunks([{"role": "assistant", "content": None, "tool_calls": [call]}, *parts], "tool_calls")


def openai_responses_events(text: str) -> list[bytes]:
    """A streamed response of the Responses API, which ends without `[DONE]`."""
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    whole = {
        "id": "resp_1", "object": "response", "created_at": 1700000000, "model": "gpt-4o", "output": [item],
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
    }  # fmt: skip
    delta = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
    return sse(
        [
            {
                "type": "response.created",
                "sequence_number": 0,
                "response": whole | {"status": "in_progress", "output": []},
            },
            {"type": "response.output_text.delta", "sequence_number": 1, "delta": text} | delta,
            {"type": "response.completed", "sequence_number": 2, "response": whole | {"status": "completed"}},
        ],
        named=True,
    )


def openai_error(code: str) -> bytes:
    """An error's body."""
    return json.dumps({"error": {"message": "no", "type": "some_error", "param": None, "code": code}}).encode()


MESSAGE: dict[str, Any] = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": None,
    "stop_sequence": None, "content": [], "usage": {"input_tokens": 3, "output_tokens": 1},
}  # fmt: skip


def anthropic_message(text: str) -> bytes:
    """A message that was not streamed."""
    return json.dumps(MESSAGE | {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}).encode()


def _blocks(block: dict[str, Any], deltas: Iterable[dict[str, Any]], stop: str) -> list[bytes]:
    events: list[dict[str, Any]] = [{"type": "message_start", "message": MESSAGE}]
    events.append({"type": "content_block_start", "index": 0, "content_block": block})
    events.append({"type": "ping"})
    events += [{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas]
    events.append({"type": "content_block_stop", "index": 0})
    end = {"stop_reason": stop, "stop_sequence": None}
    events.append({"type": "message_delta", "delta": end, "usage": {"output_tokens": 7}})
    events.append({"type": "message_stop"})
    return sse(events, named=True)


def anthropic_events(*tokens: str) -> list[bytes]:
    """A streamed message."""
    return _blocks(
        {"type": "text", "text": ""}, ({"type": "text_delta", "text": token} for token in tokens), "end_turn"
    )


def anthropic_tool_events() -> list[bytes]:
    """A streamed message that uses a tool."""
    block: dict[str, Any] = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
    parts = ('{"city"', ': "Köln"}')
    return _blocks(block, ({"type": "input_json_delta", "partial_json": part} for part in parts), "tool_use")


def anthropic_error(kind: str) -> bytes:
    """An error's body; `overloaded_error` may also come as an event of a stream."""
    return json.dumps({"type": "error", "error": {"type": kind, "message": "no"}}).encode()

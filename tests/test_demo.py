"""The demo's application: what it gives to its page, and to nobody else."""

import json
import time

import pytest

from proxy.base.errors import Refusal
from proxy.demo import Application, ScriptedAnswer
from proxy.http.body import BodyError, BytesBody, read_all
from proxy.http.message import Request, Response
from proxy.policy.auth import Keyring
from proxy.policy.caller import Access
from proxy.wire.headers import Headers
from proxy.wire.url import parse_url

_SECRET = "the secret of the demo"


def _application() -> Application:
    return Application(secret=_SECRET, origin="http://localhost:4441", proxy_origin="http://localhost:4440")


async def _ask(method: str, target: str, *, host: str = "localhost:4441", body: bytes = b"") -> Response:
    headers = Headers([(b"host", host.encode())])
    return await _application()(Request(method.encode(), target.encode(), headers, BytesBody([body])))


async def test_the_page_may_talk_to_its_own_origin_and_the_proxy_and_nobody_else() -> None:
    response = await _ask("GET", "/")
    policy = (response.headers.get(b"content-security-policy") or b"").decode()
    assert "default-src 'none'" in policy
    assert "connect-src 'self' http://localhost:4440;" in policy
    assert "unsafe" not in policy
    page = (await read_all(response.body, 1 << 20)).decode()
    assert "<style" not in page
    assert " style=" not in page
    assert page.count("<script") == page.count('<script type="module" src=')


async def test_the_page_gets_a_token_that_the_proxy_takes_for_a_minute_and_never_the_secret() -> None:
    response = await _ask("GET", "/api/session")
    text = await read_all(response.body, 1 << 20)
    session = json.loads(text)
    assert session["proxyUrl"] == "http://localhost:4440/v1/proxy"
    assert session["api"] == "http://localhost:4441/model"
    assert response.headers.get(b"cache-control") == b"no-store"
    assert _SECRET.encode() not in text
    authorization = [b"Bearer " + session["token"].encode()]
    caller = Keyring([_SECRET]).admit(Access.CREATE, "", [], authorization, time.time())
    assert caller.may_call(parse_url(b"http://localhost:4441/model"))
    assert not caller.may_call(parse_url(b"http://localhost:4441/other"))
    for access, later in ((Access.CREATE, 62), (Access.READ, 0), (Access.DELETE, 0)):
        with pytest.raises(Refusal):
            Keyring([_SECRET]).admit(access, "", [], authorization, time.time() + later)


@pytest.mark.parametrize("host", ["evil.example:4441", "localhost.evil.example:4441", "", "evil.example"])
async def test_a_name_that_was_pointed_at_this_machine_gets_nothing(host: str) -> None:
    response = await _ask("GET", "/api/session", host=host)
    assert response.status == 404
    assert b"token" not in await read_all(response.body, 1 << 20)


@pytest.mark.parametrize("host", ["localhost:4441", "127.0.0.1:4441", "[::1]:4441"])
async def test_this_machine_by_any_of_its_names_is_answered(host: str) -> None:
    assert (await _ask("GET", "/static/demo/demo.js", host=host)).status == 200


async def test_other_methods_are_refused() -> None:
    assert (await _ask("POST", "/api/session")).status == 405
    assert (await _ask("POST", "/model", body=bytes(100_000))).status == 413


@pytest.mark.parametrize(
    ("question", "words"), [("a story", "lighthouse"), ("the network", "Now restore it"), ("?", "log of bytes")]
)
async def test_the_model_speaks_in_the_events_of_a_chat_completion(question: str, words: str) -> None:
    response = await _ask("POST", "/model", body=question.encode())
    assert response.headers.get(b"content-type") == b"text/event-stream"
    assert isinstance(response.body, ScriptedAnswer)
    response.body.pace = 0
    events = (await read_all(response.body, 1 << 20)).decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    said = "".join(json.loads(event[6:])["choices"][0]["delta"]["content"] for event in events[:-2])
    assert words.lower() in said.lower()


async def test_an_answer_that_is_aborted_says_no_more() -> None:
    answer = ScriptedAnswer("one two three", pace=0)
    assert b"one" in (await answer.take())[0]
    answer.abort()
    with pytest.raises(BodyError):
        await answer.take()

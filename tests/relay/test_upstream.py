"""What an upstream's answer means before a byte of it is stored."""

from typing import cast

import pytest

from proxy.base.errors import Code, Refusal
from proxy.http.body import BytesBody
from proxy.http.message import ExchangeError, Fault, Handler, Request, Response
from proxy.http.pool import Pool
from proxy.net.dial import Address
from proxy.policy.addresses import AddressRules, Reach
from proxy.policy.allowlist import Match
from proxy.relay.upstream import Upstream, UpstreamSettings
from proxy.wire.headers import Headers
from proxy.wire.url import parse_url


class _Answering:
    """A pool whose every origin answers the same."""

    def __init__(self, *fields: tuple[bytes, bytes]) -> None:
        self._headers = Headers(fields)

    def at(self, address: Address) -> Handler:
        async def handle(request: Request) -> Response:
            return Response(200, self._headers, BytesBody([b"x" * 50]))

        return handle


class _Broken:
    """A pool whose every origin fails in the same way."""

    def __init__(self, error: ExchangeError) -> None:
        self._error = error

    def at(self, address: Address) -> Handler:
        async def handle(request: Request) -> Response:
            raise self._error

        return handle


async def _ask(*fields: tuple[bytes, bytes], pool: object = None) -> Response:
    settings = UpstreamSettings(1.0, 1.0, max_response_bytes=10, max_error_bytes=10)
    upstream = Upstream(cast(Pool, pool or _Answering(*fields)), AddressRules(lambda _: False), settings)
    match = Match(pattern="http://localhost/**", reach=Reach.PRIVATE)
    return await upstream.ask(parse_url(b"http://localhost/x"), match, b"GET", Headers(), BytesBody())


async def test_a_body_over_the_limit_that_nobody_announced_is_let_in_even_when_it_has_arrived_whole() -> None:
    assert (await _ask()).status == 200


async def test_an_announced_length_over_the_limit_is_refused() -> None:
    with pytest.raises(Refusal) as refusal:
        await _ask((b"content-length", b"50"))
    assert refusal.value.code is Code.RESPONSE_TOO_LARGE


async def test_the_reason_why_an_answer_is_not_http_is_in_the_message_and_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(Refusal) as refusal:
        await _ask(pool=_Broken(ExchangeError(Fault.PROTOCOL, sent=True, detail="a bad chunk-size line")))
    assert refusal.value.message == "the upstream's answer was not valid HTTP: a bad chunk-size line"
    assert caplog.messages == ["answer of upstream localhost was not valid HTTP: a bad chunk-size line"]


async def test_a_lack_of_descriptors_is_the_proxy_s_own_fault_and_passes() -> None:
    with pytest.raises(Refusal) as refusal:
        await _ask(pool=_Broken(ExchangeError(Fault.DESCRIPTORS, sent=False)))
    assert refusal.value.code is Code.OVERLOADED
    assert refusal.value.message == "the proxy has no file descriptor for a connection to the upstream"

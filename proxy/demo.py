"""`python -m proxy demo`: a scripted model, an application around it, and the proxy between; nothing else is needed.

Owns the application: its page, the route that gives the page a short-lived token, and the model. The proxy and its
embedded store are the real ones, and the page is an ordinary client of theirs: the secret never reaches the browser.
"""

import argparse
import asyncio
import json
import secrets
import tempfile
import time
import webbrowser
from collections.abc import Callable, Iterator
from importlib.resources import files

from proxy.base.errors import Code, Refusal
from proxy.config import Config
from proxy.handlers.router import error_response
from proxy.handlers.static import StaticFiles
from proxy.http.body import Body, BodyError, BytesBody, Cut, TooLarge, read_all
from proxy.http.message import Request, Response
from proxy.policy.tokens import make_token
from proxy.server import create_proxy_server
from proxy.serving import Binding
from proxy.wire.events import Buffer
from proxy.wire.headers import Headers

__all__ = ["Application", "ScriptedAnswer", "add_arguments", "run"]

_TOKEN_SECONDS = 60.0
_PACE_SECONDS = 0.06  # slow enough to try everything while it speaks
_MAX_QUESTION_BYTES = 64 * 1024
_LOOPBACK = (b"localhost", b"127.0.0.1", b"[::1]")
_JSON = (b"content-type", b"application/json")
_PRIVATE = (b"cache-control", b"no-store")

_HOW = """\
A durable stream is a log of bytes that only grows. The proxy asked the model once, and every word you see was \
appended to that log before this page read it. The page is a reader like any other: it knows an offset, which is a \
place in the log, and asks for whatever follows.

So a reader may vanish at any moment. Reload, and the new page finds the signed URL that the old one left in this \
browser. It starts at the first byte and catches up in an instant, because the words are already there. Open a second \
tab, and there are two readers of one log.

The model notices nothing. It was called once and is paid once, and it goes on writing whether somebody looks or not, \
until it is done, or until you press stop: then its connection is closed, and what it had said stays readable."""

_STORY = """\
The lighthouse at Skerry Point kept a log. Every ship that passed was written down, hour by hour, in ink, and nothing \
that was written was ever changed.

One night a storm took the keeper's lamp, and with it the line he was reading. He sat in the dark until the wind was \
tired. Then he lit another lamp, laid his finger on the last word he remembered, and read on. Not a ship was missing, \
and none came twice.

“How did you know where to go on?” asked the boy who brought the oil.

“I did not,” said the keeper. “I only knew how far I had come. The log knew the rest.”"""

_NETWORK = """\
Try it: press “Cut the network” while this is being written. The page stops growing, and the chip above the tape says \
reconnecting. Nothing else stops. The model keeps talking to the proxy, and the proxy keeps appending what it says.

Now restore it. The page asks again, from the very offset it had reached, and the words that piled up arrive at once. \
On the tape you see where one connection ended and the next began; between the two there is no gap and no overlap, \
even when the line was cut in the middle of a word.

The same happens when a train enters a tunnel, when a laptop sleeps, or when the proxy itself is restarted. A reader \
needs two things only, the URL and the offset, and it can be any reader: this page, another one, or curl."""


class ScriptedAnswer:
    """A Body that says `text` word by word as the events of a chat completion, `pace` seconds between two."""

    length: int | None = None

    def __init__(self, text: str, pace: float = _PACE_SECONDS) -> None:
        self._events = _events(text)
        self.pace = pace
        self._cut: Cut | None = None
        self.ended = False

    async def take(self) -> tuple[Buffer, ...]:
        """The next word's event, after the pace; () at the end. Raises BodyError when it was aborted."""
        if self._cut is not None:
            raise BodyError(self._cut)
        await asyncio.sleep(self.pace)
        event = next(self._events, None)
        self.ended = event is None
        return () if event is None else (event,)

    def take_nowait(self) -> tuple[Buffer, ...]:
        """Nothing: every word has its pace."""
        return ()

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        """Say no more."""
        self._cut = cut

    def close(self) -> None:
        """Say no more."""
        self.abort()


def _events(text: str) -> Iterator[bytes]:
    for word in text.split(" "):
        yield b"data: %s\n\n" % json.dumps({"choices": [{"index": 0, "delta": {"content": word + " "}}]}).encode()
    yield b"data: [DONE]\n\n"


class Application:
    """A Handler: what a team of its own would run beside the proxy. Listens on loopback only.

    GET / is the page, /static/ its files, GET /api/session what the page needs to ask, POST /model the model.
    """

    def __init__(self, *, secret: str, origin: str, proxy_origin: str) -> None:
        self._secret = secret
        self._model = f"{origin}/model"
        self._proxy = proxy_origin
        self._static = StaticFiles(demo=True)
        page = (files("proxy") / "static" / "demo" / "index.html").read_bytes()
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
            f"connect-src 'self' {proxy_origin}; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        )
        self._page = page
        self._page_headers = Headers(
            [
                (b"content-type", b"text/html; charset=utf-8"),
                (b"content-security-policy", policy.encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"referrer-policy", b"no-referrer"),
                (b"cache-control", b"no-cache"),
            ]
        )

    async def __call__(self, request: Request) -> Response:
        """Answer one request: 404 for any other path, and for a Host that is not this machine's."""
        try:
            return await self._route(request)
        except Refusal as refusal:
            return error_response(refusal)
        except TooLarge:
            return error_response(Refusal(Code.REQUEST_TOO_LARGE, "the question is too long"))

    async def _route(self, request: Request) -> Response:
        host = (request.headers.get(b"host") or b"").rpartition(b":")[0]
        if host not in _LOOPBACK:  # another site's name that points here must not get a token
            raise Refusal(Code.NOT_FOUND, "there is nothing under this name")
        path = request.target.partition(b"?")[0]
        if request.method == b"POST" and path == b"/model":
            return await self._answer(request)
        if request.method not in (b"GET", b"HEAD"):
            raise Refusal(Code.METHOD_NOT_ALLOWED, "only GET, and POST for the model")
        if path == b"/":
            return Response(200, self._page_headers, BytesBody([self._page]))
        if path == b"/api/session":
            return self._session()
        return await self._static(request)

    def _session(self) -> Response:
        token = make_token(self._secret, time.time(), _TOKEN_SECONDS, scope="create", upstream=[self._model])
        session = {"proxyUrl": f"{self._proxy}/v1/proxy", "api": self._model, "token": token}
        return Response(200, Headers([_JSON, _PRIVATE]), BytesBody([json.dumps(session).encode()]))

    @staticmethod
    async def _answer(request: Request) -> Response:
        question = (await read_all(request.body, _MAX_QUESTION_BYTES)).lower()
        text = _STORY if b"story" in question else _NETWORK if b"network" in question else _HOW
        body: Body = ScriptedAnswer(text)
        return Response(200, Headers([(b"content-type", b"text/event-stream")]), body)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m proxy demo`."""
    text = "Port of the proxy; the page is on the next one. 0 picks free ones [default 4440]"
    parser.add_argument("--port", type=int, default=4440, metavar="PORT", help=text)
    text = "Directory of the streams; without one they end with the demo"
    parser.add_argument("--data-dir", default="", metavar="PATH", help=text)
    parser.add_argument("--no-open", action="store_true", help="Do not open a browser")


async def run(options: argparse.Namespace, say: Callable[[str], None], stopped: asyncio.Event) -> None:
    """Run the demo until `stopped` is set. Raises ConfigError when a port or the directory cannot be used."""
    with tempfile.TemporaryDirectory(prefix="durable-demo-") as temporary:
        config = Config.of(port=options.port + 1 if options.port else 0)
        binding = Binding(config.listen, config.tls)
        origin = binding.url
        secret = secrets.token_urlsafe(32)
        try:
            proxy = await create_proxy_server(
                port=options.port,
                allowlist=[f"{origin}/model"],
                secret=secret,
                cors_origin=[origin, f"http://127.0.0.1:{binding.port}"],
                data_dir=options.data_dir or temporary,
            )
        except BaseException:
            binding.close()
            raise
        async with proxy:
            application = Application(secret=secret, origin=origin, proxy_origin=proxy.url)
            server = binding.serve(application, lambda refusal, _: error_response(refusal), config.server)
            say(f"Demo running at {origin}")
            say(f"Its proxy is at {proxy.url}")
            if not options.no_open:
                await asyncio.to_thread(webbrowser.open, origin)
            await stopped.wait()
            await server.aclose()

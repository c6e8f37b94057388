import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.base.errors import Code, Refusal
from proxy.handlers.static import StaticFiles
from proxy.http.body import read_all
from proxy.http.message import Request, Response
from proxy.version import __version__
from proxy.wire.headers import Headers

_FOLDER = Path(__file__).resolve().parent.parent.parent / "proxy" / "static"


async def _get(path: str, *fields: tuple[bytes, bytes], handler: StaticFiles | None = None) -> Response:
    return await (handler or StaticFiles())(Request(b"GET", path.encode(), Headers(fields)))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("client.js", b"text/javascript; charset=utf-8"),
        ("reading.js", b"text/javascript; charset=utf-8"),
        ("vercel.js", b"text/javascript; charset=utf-8"),
        ("client.d.ts", b"text/plain; charset=utf-8"),
        ("package.json", b"application/json"),
    ],
)
async def test_a_file_is_served_as_it_lies_in_the_package_with_its_type(path: str, kind: bytes) -> None:
    response = await _get(f"/static/{path}")
    assert response.status == 200
    assert response.headers.get(b"content-type") == kind
    assert await read_all(response.body, 1 << 20) == (_FOLDER / path).read_bytes()


async def test_with_the_version_in_its_url_a_file_may_be_kept_for_ever_and_without_it_is_asked_for_again() -> None:
    pinned = await _get(f"/static/{__version__}/client.js")
    plain = await _get("/static/client.js?v=whatever")
    assert pinned.headers.get(b"cache-control") == b"public, max-age=31536000, immutable"
    assert plain.headers.get(b"cache-control") == b"no-cache"
    assert pinned.headers.get(b"etag") == plain.headers.get(b"etag")


@pytest.mark.parametrize("condition", ["{}", "W/{}", '"x", {}', "*", '"x" ,W/{} , "y"'])
async def test_a_client_that_has_it_gets_304_with_the_validator_and_no_body(condition: str) -> None:
    etag = (await _get("/static/client.js")).headers.get(b"etag") or b""
    assert re.fullmatch(rb'"[0-9a-f]{32}"', etag)
    response = await _get("/static/client.js", (b"if-none-match", condition.format(etag.decode()).encode()))
    assert response.status == 304
    assert response.headers.get(b"etag") == etag
    assert response.headers.get(b"cache-control") == b"no-cache"
    assert response.body.length == 0


@pytest.mark.parametrize("condition", [b'"x"', b"", b'W/"x"'])
async def test_a_client_that_has_another_one_gets_the_file(condition: bytes) -> None:
    assert (await _get("/static/client.js", (b"if-none-match", condition))).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/", "/static", "/static/nothing.js", "/static/../version.py", "/static/demo/../client.js",
        "/static/%63lient.js", "/static//client.js", "/static/9.9.9/client.js", "/client.js", "/static/__init__.py",
        "/static/..%2fversion.py", "/static/client.js/", "/static/client.js%00", "/static/demo/index.html",
        "/static/demo/demo.js", "/static/demo/icon.svg",
    ],
)  # fmt: skip
async def test_any_other_path_is_not_found(path: str) -> None:
    with pytest.raises(Refusal) as refusal:
        await _get(path)
    assert refusal.value.code is Code.NOT_FOUND


@pytest.mark.parametrize("path", ["/static/demo/index.html", f"/static/{__version__}/demo/index.html"])
async def test_the_demos_page_is_not_served_even_where_its_scripts_are(path: str) -> None:
    handler = StaticFiles(demo=True)
    assert (await _get("/static/demo/demo.js", handler=handler)).status == 200
    with pytest.raises(Refusal):
        await _get(path, handler=handler)


@given(st.binary(max_size=60))
async def test_no_bytes_lead_anywhere_but_to_a_listed_file(tail: bytes) -> None:
    with pytest.raises(Refusal):
        await StaticFiles()(Request(b"GET", b"/static/../" + tail, Headers()))

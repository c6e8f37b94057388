"""TLS at the port of a real process: curl and openssl as clients, reload by SIGHUP, starts that are refused."""

import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from proxy.config import ConfigError
from proxy.server import create_proxy_server
from tests.conformance.caller import Caller
from tests.kit.certificates import Authority
from tests.kit.nginx import Nginx, needs_nginx
from tests.kit.peers import RawClient
from tests.kit.proxy_process import ProxyProcess, run_proxy
from tests.kit.scripts import chunked, fixed
from tests.kit.upstream import Upstream
from tests.kit.waiting import SOON

SECRET = "a-secret-of-more-than-thirty-two-bytes-in-all"
HEALTH = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n"

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def proxy(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """A proxy whose handshakes have 1 s."""
    data = ["--data-dir", str(tmp_path_factory.mktemp("data")), "--head-timeout-seconds", "1"]
    pair = authority.pair("proxy")
    with ProxyProcess([*pair.flags, *data, "--allow", "http://localhost:*/**"], env={"PROXY_SECRET": SECRET}) as proxy:
        yield proxy
        assert "Traceback" not in proxy.output, proxy.output
        assert proxy.stop() == 0


def run(*command: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=given, capture_output=True, timeout=20, check=False)


def is_well(proxy: ProxyProcess, authority: Authority) -> bool:
    with RawClient(proxy.url, tls=authority.client) as peer:
        peer.send(HEALTH)
        return peer.response().status == 200


def serial_of(proxy: ProxyProcess, authority: Authority) -> object:
    """The serial number of the certificate that a new client gets."""
    with RawClient(proxy.url, tls=authority.client) as peer:
        return peer.certificate()["serialNumber"]


# Clients


def test_the_url_at_the_start_is_https(proxy: ProxyProcess) -> None:
    assert proxy.url.startswith("https://localhost:")


@needs_curl
def test_curl_creates_and_reads_a_stream(proxy: ProxyProcess, authority: Authority) -> None:
    body = bytes(range(256))
    with Upstream() as upstream:
        url = upstream.serve(fixed(body)).url
        common = ["curl", "-sS", "--fail-with-body", "--cacert", str(authority.ca_file)]
        create = [*common, "-X", "POST", "-D", "-", "-o", "/dev/null", f"{proxy.url}/v1/proxy"]
        fields = [f"Authorization: Bearer {SECRET}", f"Upstream-URL: {url}", "Upstream-Method: GET"]
        made = run(*create, *(part for field in fields for part in ("-H", field)))
        assert made.returncode == 0, made.stderr
        location = next(
            line.split(": ", 1)[1] for line in made.stdout.decode().splitlines() if line.lower().startswith("location:")
        )
        read = run(*common, f"{proxy.url}{location}&offset=-1&live=long-poll")
        assert read.returncode == 0, read.stderr
        assert read.stdout == body


def test_a_client_that_speaks_plain_http_gets_a_clear_400(proxy: ProxyProcess) -> None:
    with RawClient(proxy.url.replace("https:", "http:")) as peer:
        peer.send(HEALTH)
        answer = peer.response()
        assert (answer.status, answer.body) == (400, b"This port speaks TLS: its URL begins with https.\n")
        assert peer.rest() == b""


@needs_openssl
def test_renegotiation_is_refused(proxy: ProxyProcess, authority: Authority) -> None:
    """`R` on a line of its own makes openssl ask for it."""
    place = f"localhost:{proxy.port}"
    asked = run("openssl", "s_client", "-connect", place, "-tls1_2", "-CAfile", str(authority.ca_file), given=b"R\n")
    assert b"RENEGOTIATING" in asked.stdout + asked.stderr
    assert b"no renegotiation" in asked.stderr
    assert is_well(proxy, authority)


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["silent", "half a hello"])
def test_a_handshake_that_does_not_go_on_is_ended_while_others_are_served(
    proxy: ProxyProcess, authority: Authority, sent: bytes
) -> None:
    with RawClient(proxy.url.replace("https:", "http:")) as peer:
        peer.send(sent)
        assert is_well(proxy, authority)
        assert peer.rest() == b""


def test_noise_in_place_of_a_handshake_is_ended(proxy: ProxyProcess, authority: Authority) -> None:
    with RawClient(proxy.url.replace("https:", "http:")) as peer:
        peer.send(b"\x16\x03\x01\x00\x05hello" * 100)
        peer.rest()
    assert is_well(proxy, authority)


@needs_openssl
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_resumes_its_session(proxy: ProxyProcess, authority: Authority, tmp_path: Path, version: str) -> None:
    place, session = f"localhost:{proxy.port}", str(tmp_path / "session")
    common = ["openssl", "s_client", "-connect", place, version, "-CAfile", str(authority.ca_file), "-ign_eof"]
    ask = HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert b"HTTP/1.1 200" in run(*common, "-sess_out", session, given=ask).stdout
    again = run(*common, "-sess_in", session, given=ask)
    assert b"Reused, TLS" in again.stdout
    assert b"HTTP/1.1 200" in again.stdout


# Reload


def test_a_hangup_reloads_the_certificates_and_connections_go_on(authority: Authority, tmp_path: Path) -> None:
    pair = authority.pair("reloaded")
    args = [*pair.flags, "--data-dir", str(tmp_path), "--allow", "http://localhost:*/**"]
    with ProxyProcess(args, env={"PROXY_SECRET": SECRET}) as proxy:
        first = serial_of(proxy, authority)
        with RawClient(proxy.url, tls=authority.client) as running:
            pair.key.write_text("nothing")
            proxy.signal(signal.SIGHUP)
            proxy.wait_for("certificates not reloaded: TLS: the file")
            assert serial_of(proxy, authority) == first
            authority.pair("reloaded", days=3)
            proxy.signal(signal.SIGHUP)
            proxy.wait_for("Certificates reloaded")
            assert "expires on" in proxy.output
            assert serial_of(proxy, authority) != first
            running.send(HEALTH)
            assert running.response().status == 200
        assert proxy.stop() == 0


def test_without_tls_a_hangup_ends_the_process(tmp_path: Path) -> None:
    with ProxyProcess(["--data-dir", str(tmp_path)], env={"PROXY_SECRET": SECRET}) as proxy:
        proxy.signal(signal.SIGHUP)
        assert proxy.wait() == -signal.SIGHUP


async def test_the_python_api_takes_the_same_settings_and_reloads(authority: Authority, tmp_path: Path) -> None:
    pair = authority.pair("api", days=-1)
    server = await create_proxy_server(
        port=0, secret=SECRET, data_dir=tmp_path, tls_cert=pair.certificate, tls_key=pair.key
    )
    async with server:
        assert server.url.startswith("https://")
        assert any("expired on" in notice for notice in server.notices)
        pair.key.chmod(0o604)
        with pytest.raises(ConfigError, match=r"chmod o-rwx"):
            server.reload()
        authority.pair("api")
        pair.key.chmod(0o600)
        assert server.reload() == []


def test_the_store_alone_speaks_tls_too(authority: Authority, tmp_path: Path) -> None:
    pair = authority.pair("store")
    args = ["store", "--port", "0", *pair.flags, "--data-dir", str(tmp_path)]
    with ProxyProcess(args) as store, RawClient(store.url, tls=authority.client) as peer:
        peer.send(b"PUT /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nContent-Type: text/plain\r\n\r\n")
        made = peer.response(to=b"PUT")
        assert (made.status, made.get("location")) == (201, "https://localhost/a")


# nginx, whose connections end after three requests


@needs_nginx
def test_streams_are_whole_behind_an_nginx_that_speaks_tls_on_both_sides(authority: Authority, tmp_path: Path) -> None:
    pair = authority.pair("nginx")
    (tmp_path / "data").mkdir(mode=0o700)
    args = [*authority.pair("behind").flags, "--data-dir", str(tmp_path / "data"), "--allow", "http://localhost:*/**"]
    with Upstream() as upstream, ProxyProcess(args, env={"PROXY_SECRET": SECRET}) as proxy:
        server = (
            f"ssl_certificate {pair.certificate}; ssl_certificate_key {pair.key}; location / {{"
            f" proxy_pass https://localhost:{proxy.port}; proxy_http_version 1.1; proxy_buffering off;"
            f" proxy_ssl_trusted_certificate {authority.ca_file}; proxy_ssl_verify on; proxy_ssl_name localhost; }}"
        )
        with Nginx(tmp_path, server) as front:
            caller = Caller(front.url, SECRET, tls=authority.client)
            for number in range(5):
                body = bytes([number]) * 100_000
                assert caller.create(upstream.serve(chunked(body)).url).whole().data == body
            caller.http.close()


@needs_nginx
def test_an_nginx_that_demands_a_certificate_and_closes_often_is_called(authority: Authority, tmp_path: Path) -> None:
    pair, mine = authority.pair("upstream"), authority.pair("client", "proxy.example")
    both = tmp_path / "both.pem"
    both.touch(0o600)
    both.write_bytes(mine.certificate.read_bytes() + mine.key.read_bytes())
    (tmp_path / "data").mkdir(mode=0o700)
    text = "nginx" * 500
    server = (
        f"ssl_certificate {pair.certificate}; ssl_certificate_key {pair.key}; "
        f" default_type text/plain; location / {{ return 200 {text}; }}"
        f" ssl_client_certificate {authority.ca_file}; ssl_verify_client on;"
    )
    with Nginx(tmp_path, server) as upstream:
        args = ["--ca-file", str(authority.ca_file), "--allow", "https://localhost:*/**", "--upstream-cert"]
        args += [f"{upstream.url}={both}", "--data-dir", str(tmp_path / "data"), "--port", "0"]
        with ProxyProcess(args, env={"PROXY_SECRET": SECRET}) as proxy:
            caller = Caller(proxy.url, SECRET)
            for _ in range(8):
                stream = caller.create(f"{upstream.url}/body", "GET")
                assert stream.whole().data.decode() == text
            refused = caller.post(f"{upstream.url.replace('localhost', '127.0.0.1')}/body", "GET")
            assert refused.status_code == 403  # another origin, which the allowlist does not name
            caller.http.close()


@needs_nginx
@pytest.mark.parametrize("version", ["auto", "1.1"])
def test_an_nginx_that_says_goaway_every_three_requests_is_called_over_http2(
    authority: Authority, tmp_path: Path, version: str
) -> None:
    pair = authority.pair("upstream")
    (tmp_path / "data").mkdir(mode=0o700)
    text = "nginx" * 500
    server = (
        f"ssl_certificate {pair.certificate}; ssl_certificate_key {pair.key}; "
        f' default_type text/plain; location / {{ return 200 "$server_protocol {text}"; }}'
    )
    with Nginx(tmp_path, server, http2=True) as upstream:
        args = ["--ca-file", str(authority.ca_file), "--allow", "https://localhost:*/**", "--upstream-http", version]
        args += ["--data-dir", str(tmp_path / "data")]
        with ProxyProcess(args, env={"PROXY_SECRET": SECRET}) as proxy:
            caller = Caller(proxy.url, SECRET)
            spoken = "HTTP/2.0" if version == "auto" else "HTTP/1.1"
            for method in ("GET", "POST") * 4:
                stream = caller.create(f"{upstream.url}/body", method)
                assert stream.whole().data.decode() == f"{spoken} {text}"
            caller.http.close()
            assert "Traceback" not in proxy.output
            assert proxy.stop() == 0


def test_a_502_says_that_the_upstreams_certificate_has_expired(authority: Authority, tmp_path: Path) -> None:
    expired = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    expired.load_cert_chain(*authority.pair("expired", days=-1))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_handshakes, args=(listening, expired), daemon=True)
        thread.start()
        url = f"https://localhost:{listening.getsockname()[1]}"
        args = ["--ca-file", str(authority.ca_file), "--allow", f"{url}/**", "--allow-private", f"{url}/**"]
        with ProxyProcess([*args, "--data-dir", str(tmp_path)], env={"PROXY_SECRET": SECRET}) as proxy:
            caller = Caller(proxy.url, SECRET)
            answer = caller.post(f"{url}/", "GET")
            message = answer.json()["error"]["message"]
            assert answer.status_code == 502
            assert message == "the TLS handshake with the upstream failed: its certificate has expired"
            caller.http.close()
        listening.shutdown(socket.SHUT_RDWR)  # ends the accept
        thread.join(SOON)


def _handshakes(listening: socket.socket, context: ssl.SSLContext) -> None:
    """Answer handshakes until the socket is closed."""
    with suppress(OSError):
        while True:
            accepted, _ = listening.accept()
            with suppress(OSError), accepted, context.wrap_socket(accepted, server_side=True):
                pass


# Starts that are refused


def test_a_key_that_does_not_belong_to_its_certificate_stops_the_start(authority: Authority, tmp_path: Path) -> None:
    one, two = authority.pair("one"), authority.pair("two")
    args = ["--tls-cert", str(one.certificate), "--tls-key", str(two.key), "--data-dir", str(tmp_path), "--port", "0"]
    ended = run_proxy(args, env={"PROXY_SECRET": SECRET})
    assert ended.returncode == 2
    assert "does not belong to the certificate" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1

"""The command `fetch`: sends a request through the proxy and writes the answer to stdout; resumable by an id.

Owns arguments, exit codes and the progress line. Secrets come from the environment or from files, never from argv.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO
from urllib.parse import urlsplit

from proxy.client._sync.create import create_durable_fetch
from proxy.client._sync.fetch import DurableFetch
from proxy.client._sync.response import DurableResponse
from proxy.client.errors import DurableError, IncompleteStream, NetworkError, NetworkFault, ProxyError, printable
from proxy.client.storage import FileStorage

__all__ = ["add_arguments", "main"]

DEFAULT_PROXY = "http://localhost:4440"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

EPILOG = """\
environment:
  PROXY_URL               URL of the proxy, without --proxy
  PROXY_SECRET            service secret of the proxy, without --secret-file; without both, for a proxy on this
                          machine, the secret that it made (in PROXY_DATA_DIR)
  UPSTREAM_AUTHORIZATION  Authorization header for the upstream, unless -H sets one

exit codes: 0 the answer is whole; 2 bad usage; 3 the proxy refused; 7 the proxy could not be reached;
18 the answer ended early; 22 the upstream answered with an error (its body is on stdout); 23 stdout cannot be
written; 130 interrupted.
"""

USAGE, REFUSED, UNREACHABLE, INCOMPLETE, UPSTREAM_ERROR, UNWRITABLE = 2, 3, 7, 18, 22, 23
INTERRUPTED, PIPE_CLOSED = 130, 141

_PROGRESS_SECONDS = 0.1  # between two progress lines: often enough to look alive, rare enough to cost nothing


class _Usage(Exception):
    """The arguments, or a file that they name, cannot be used."""


class _Unwritable(Exception):
    """The answer cannot be written to stdout."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Send a request through the durable proxy and write the answer to stdout."
    parser.epilog = EPILOG
    parser.add_argument("url", nargs="?", metavar="URL", help="URL of the upstream; not needed to resume or abort")
    parser.add_argument("-X", "--request", metavar="METHOD", help="request method (default: GET, or POST with -d)")
    parser.add_argument(
        "-H",
        "--header",
        action="append",
        default=[],
        metavar="LINE",
        help="header field 'Name: value', or @FILE with one on each line",
    )
    parser.add_argument(
        "-d",
        "--data",
        metavar="DATA",
        help="request body; @FILE reads a file, @- stdin. Content-Type is JSON unless -H sets it",
    )
    parser.add_argument("--proxy", metavar="URL", help=f"URL of the proxy (default: {DEFAULT_PROXY})")
    parser.add_argument("--secret-file", metavar="FILE", help="file with the proxy's service secret in its first line")
    parser.add_argument("--request-id", metavar="ID", help="name for the request, by which its answer can be resumed")
    parser.add_argument(
        "-C",
        "--continue",
        dest="go_on",
        action="store_true",
        help="resume after the bytes that were written before, instead of at the start",
    )
    parser.add_argument("--abort", action="store_true", help="stop the upstream call of --request-id and forget the id")
    parser.add_argument("--state-dir", metavar="DIR", help="folder in which request ids are remembered")
    parser.add_argument("-s", "--silent", action="store_true", help="show no progress")


def main(args: argparse.Namespace, made_secret: Path | None = None) -> int:
    """Run the command; the exit code. `made_secret`: where a proxy on this machine keeps the secret that it made."""
    fetch: DurableFetch | None = None
    try:
        fetch = _fetch(args, made_secret)
        with fetch:
            return _run(fetch, args)
    except (_Usage, ValueError) as error:
        return _fail(USAGE, str(error))
    except ProxyError as error:
        return _fail(REFUSED, f"the proxy refused: {error}")
    except NetworkError as error:
        if error.fault is NetworkFault.REQUEST:
            return _fail(USAGE, str(error))
        return _fail(UNREACHABLE, f"the proxy could not be reached: {error}{_hint(fetch, args)}")
    except IncompleteStream as error:
        return _fail(INCOMPLETE, str(error))
    except DurableError as error:
        return _fail(REFUSED, str(error))
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, f"interrupted{_hint(fetch, args)}")
    except BrokenPipeError:
        _discard_output()  # the reader of the pipe has gone, as `head` does: that is no error
        return PIPE_CLOSED
    except _Unwritable as error:
        _discard_output()
        return _fail(UNWRITABLE, f"stdout cannot be written: {error}{_hint(fetch, args)}")


def _fetch(args: argparse.Namespace, made_secret: Path | None) -> DurableFetch:
    if args.url is None and args.request_id is None:
        raise _Usage("give a URL, or the --request-id of an earlier request")
    if args.abort and args.request_id is None:
        raise _Usage("--abort needs a --request-id")
    if args.go_on and args.request_id is None:
        raise _Usage("--continue needs a --request-id")
    proxy = args.proxy or os.environ.get("PROXY_URL") or DEFAULT_PROXY
    return create_durable_fetch(
        proxy,
        proxy_authorization=_secret(args, proxy, made_secret),
        storage=FileStorage(args.state_dir or _state_dir()),
        resume_from="offset" if args.go_on else "start",
    )


def _run(fetch: DurableFetch, args: argparse.Namespace) -> int:
    if args.abort:
        return 0 if fetch.abort(args.request_id) else _fail(USAGE, "no answer is remembered under this --request-id")
    if not _is_open(sys.stdout):
        raise _Unwritable("it is closed")
    with _response(fetch, args) as response:
        shown = not args.silent and _is_open(sys.stderr) and sys.stderr.isatty() and not sys.stdout.isatty()
        _copy(_Progress(sys.stderr, shown=shown).over(response.iter_bytes()), sys.stdout.buffer)
        if response.status_code >= 400:
            return _fail(UPSTREAM_ERROR, f"the upstream answered {response.status_code}")
    return 0


def _response(fetch: DurableFetch, args: argparse.Namespace) -> DurableResponse:
    if args.url is None:
        resumed = fetch.resume(args.request_id)
        if resumed is None:
            raise _Usage("no answer is remembered under this --request-id, or its stream no longer exists")
        return resumed
    content = _data(args.data)
    headers = [field for line in args.header for field in _fields(line)]
    names = {name.lower() for name, _ in headers}
    if content is not None and "content-type" not in names:
        headers.append(("Content-Type", "application/json"))
    if "authorization" not in names and (authorization := os.environ.get("UPSTREAM_AUTHORIZATION")):
        headers.append(("Authorization", authorization))
    method = args.request or ("GET" if content is None else "POST")
    return fetch(args.url, method=method, headers=headers, content=content, request_id=args.request_id)


def _copy(pieces: Iterator[bytes], out: BinaryIO) -> None:
    """Write every piece before asking for the next one, because asking counts the piece as consumed."""
    for piece in pieces:
        try:
            out.write(piece)
            out.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _Unwritable(error.strerror) from None


def _is_open(stream: TextIO | None) -> bool:
    """Whether the process was started with this stream; the interpreter holds None for a closed one."""
    return stream is not None


def _discard_output() -> None:
    """Drop what stdout still buffers: the interpreter would write it at exit, and fail again."""
    if _is_open(sys.stdout):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Progress:
    """A line on the terminal that shows bytes and seconds, and is overwritten."""

    def __init__(self, out: TextIO, *, shown: bool) -> None:
        self._out = out
        self._shown = shown

    def over(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The same pieces, counted as the caller takes them."""
        began = shown = time.monotonic()
        size = 0
        try:
            for piece in pieces:
                yield piece
                size += len(piece)
                now = time.monotonic()
                if self._shown and now - shown >= _PROGRESS_SECONDS:
                    shown = now
                    self._out.write(f"\r{size:,} bytes, {now - began:.1f} s ")
                    self._out.flush()
        finally:
            if self._shown:
                self._out.write(f"\r{size:,} bytes, {time.monotonic() - began:.1f} s \n")


def _fields(line: str) -> list[tuple[str, str]]:
    lines = _file(line[1:]).decode().splitlines() if line.startswith("@") else [line]
    fields = []
    for each in lines:
        if each.strip():
            name, colon, value = each.partition(":")
            if not colon:
                raise _Usage("a header must be 'Name: value'")
            fields.append((name.strip(), value.strip()))
    return fields


def _data(data: str | None) -> bytes | None:
    if data is None:
        return None
    return _file(data[1:]) if data.startswith("@") else data.encode()


def _file(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise _Usage(f"{name}: {error.strerror}") from None


def _secret(args: argparse.Namespace, proxy: str, made_secret: Path | None) -> str:
    """The service secret: of the option, of the environment, or the one that a proxy on this machine has made.

    The last one is for a proxy on this machine only: another one has no right to see it.
    """
    if args.secret_file is not None:
        secret = _first_line(args.secret_file)
    else:
        secret = os.environ.get("PROXY_SECRET", "")
        is_here = urlsplit(proxy).hostname in _LOOPBACK
        if not secret and is_here and made_secret is not None and os.access(made_secret, os.R_OK):
            secret = _first_line(str(made_secret))
    if not secret:
        raise _Usage("the proxy's service secret must be in PROXY_SECRET, or in a --secret-file")
    return secret


def _first_line(path: str) -> str:
    return _file(path).decode().strip().partition("\n")[0].strip()


def _state_dir() -> Path:
    """The default folder: the XDG state directory, for data that persists but belongs to this machine."""
    base = os.environ.get("XDG_STATE_HOME", "")
    try:
        return (Path(base) if base else Path.home() / ".local" / "state") / "durable-proxy"
    except RuntimeError:
        raise _Usage("no home directory was found: give a --state-dir") from None


def _hint(fetch: DurableFetch | None, args: argparse.Namespace) -> str:
    if fetch is None or args.request_id is None or args.abort:
        return ""
    if not fetch.remembers(args.request_id):
        return f"\nNo stream is known yet: repeat the command with the same --request-id {args.request_id}"
    return (
        f"\nThe answer is still being stored: resume it with --request-id {args.request_id}, and -C for the rest only"
    )


def _fail(code: int, message: str) -> int:
    if _is_open(sys.stderr):  # with None, `print` would write to stdout
        lines = "\n".join(map(printable, message.split("\n")))  # it may name a file or an id
        print(f"fetch: {lines}", file=sys.stderr)
    return code

"""`python -m proxy [COMMAND]`: the commands and their arguments. Parses; `proxy.runtime` runs what was asked for.

Each command imports what it needs when it is chosen: `fetch` works without the server's dependencies.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from proxy.version import __version__

if TYPE_CHECKING:
    from proxy.config import Config, Group

__all__ = ["main"]

_ABOUT = """\
A durable proxy for AI streaming APIs.

commands:
  python -m proxy [serve]        run the proxy
  python -m proxy store          run the durable-streams store alone
  python -m proxy store verify   say whether a store holds what was stored in it
  python -m proxy demo           run a proxy, a scripted model and a page that shows them
  python -m proxy fetch URL      send a request through a proxy, like curl
  python -m proxy check-url URL  say whether the proxy may call a URL, and by which pattern
  python -m proxy token          make a token for a page or a program that must not have the service secret
"""

_STORE_PLACE = ("port", "host", "uds", "public_url", "max_connections", "data_dir")
_VERIFY_SETTINGS = ("data_dir",)
_CHECK_SETTINGS = ("allowlist", "allow_private")
_TOKEN_SETTINGS = ("secret", "secret_file", "data_dir")


class _Parser(argparse.ArgumentParser):
    """Options by their whole names; every fault is one line and exit code 2."""

    def __init__(self, *, positional: str = "", **options: Any) -> None:
        super().__init__(
            allow_abbrev=False,
            add_help=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            usage=f"%(prog)s [options] {positional}".rstrip(),
            **options,
        )
        version = f"durable-streams-proxy {__version__}"
        self.add_argument("-h", "--help", action="help", help="show this help and exit")
        self.add_argument("-V", "--version", action="version", version=version, help="show the version and exit")

    def parse_all(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The parsed arguments. The first unknown one is named, never its value: that may be a secret."""
        known, unknown = self.parse_known_args(arguments)
        if unknown:
            self.error(f"unknown argument {unknown[0].partition('=')[0]}")
        return known

    def error(self, message: str) -> NoReturn:
        """One line, exit code 2."""
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    commands: dict[str, Callable[[list[str]], int]] = {
        "serve": _serve,
        "store": _store,
        "demo": _demo,
        "fetch": _fetch,
        "check-url": _check_url,
        "token": _token,
    }
    if arguments and arguments[0] in commands:
        return commands[arguments[0]](arguments[1:])
    return _serve(arguments)


def _serve(arguments: list[str]) -> int:
    from proxy.arguments import add_settings  # noqa: PLC0415  # see the module's docstring
    from proxy.config import GROUPS, Config  # noqa: PLC0415
    from proxy.runtime import run, serve_proxy  # noqa: PLC0415

    parser = _Parser(prog="python -m proxy", description=_ABOUT)
    add_settings(parser, GROUPS)
    given = vars(parser.parse_all(arguments))
    return run(parser.prog, lambda: Config.from_sources(given), serve_proxy)


def _store(arguments: list[str]) -> int:
    if arguments[:1] == ["verify"]:
        return _verify(arguments[1:])
    from proxy.arguments import add_settings  # noqa: PLC0415  # see the module's docstring
    from proxy.config import GROUPS, Config  # noqa: PLC0415
    from proxy.runtime import run, serve_store  # noqa: PLC0415

    place = _group("Where the store is", _STORE_PLACE)
    groups = (place, *(group for group in GROUPS if group.key in ("tls", "store", "engine")))
    defaults = {"port": 4437}
    about = "A durable-streams server on SQLite, or on Redis or Valkey."
    parser = _Parser(prog="python -m proxy store", description=about)
    add_settings(parser, groups, defaults)
    given = vars(parser.parse_all(arguments))
    return run(parser.prog, lambda: Config.from_sources(given, defaults=defaults), serve_store)


def _verify(arguments: list[str]) -> int:
    from proxy.tools import verify  # noqa: PLC0415  # see the module's docstring

    parser = _Parser(
        prog="python -m proxy store verify",
        description="Say whether a store holds what was stored in it. It may run meanwhile."
        " Exit code: 0 it does, 1 it does not, 2 it cannot be checked.",
    )
    return _without_server(parser, arguments, _VERIFY_SETTINGS, verify)


def _demo(arguments: list[str]) -> int:
    from proxy import demo  # noqa: PLC0415  # see the module's docstring
    from proxy.config import Config  # noqa: PLC0415
    from proxy.runtime import Signals, run, say  # noqa: PLC0415

    parser = _Parser(prog="python -m proxy demo", description="A page that shows durable streams at work.")
    demo.add_arguments(parser)
    options = parser.parse_all(arguments)

    async def live(_: Config) -> None:
        await demo.run(options, say, Signals().first)

    return run(parser.prog, Config.of, live)


def _check_url(arguments: list[str]) -> int:
    from proxy.tools import check_url  # noqa: PLC0415  # see the module's docstring

    parser = _Parser(
        prog="python -m proxy check-url",
        description="Say whether the proxy may call a URL, and by which pattern. Exit code: 0 it may, 1 it may not.",
        positional="URL",
    )
    parser.add_argument("url", metavar="URL", help="URL of an upstream")
    return _without_server(parser, arguments, _CHECK_SETTINGS, check_url)


def _token(arguments: list[str]) -> int:
    from proxy.config.setting import shown  # noqa: PLC0415  # see the module's docstring
    from proxy.tools import TOKEN_LIFETIME, token  # noqa: PLC0415

    lifetime = shown(TOKEN_LIFETIME)
    parser = _Parser(
        prog="python -m proxy token",
        description="Make a token, signed with the service secret, that allows a part of what the secret allows.",
    )
    parser.add_argument("--sub", metavar="NAME", help="Owner of the streams that are created with the token")
    parser.add_argument(
        "--scope", metavar="RIGHTS", help="What the token allows: create, read, delete, admin (several in one text)"
    )
    parser.add_argument(
        "--upstream", action="append", metavar="PATTERN", help="Pattern of upstream URLs that it may call (repeatable)"
    )
    parser.add_argument(
        "--seconds", default=lifetime, metavar="TIME", help=f"Lifetime of the token [default {lifetime}]"
    )
    return _without_server(parser, arguments, _TOKEN_SETTINGS, token)


def _without_server(
    parser: _Parser, arguments: list[str], settings: Sequence[str], work: Callable[["Config", argparse.Namespace], int]
) -> int:
    """Run a command that needs some settings and no event loop; the exit code."""
    from proxy.arguments import add_settings  # noqa: PLC0415  # see the module's docstring
    from proxy.config import Config, ConfigError  # noqa: PLC0415

    add_settings(parser, [_group("The proxy's settings", settings)])
    options = parser.parse_all(arguments)
    try:
        return work(Config.from_sources(vars(options)), options)
    except ConfigError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _group(title: str, names: Sequence[str]) -> "Group":
    """Some of the proxy's settings under a heading of their own."""
    from proxy.config import SETTINGS, Group  # noqa: PLC0415  # see the module's docstring

    return Group("", title, tuple(setting for setting in SETTINGS if setting.name in names))


def _fetch(arguments: list[str]) -> int:
    from proxy.base.places import made_secret  # noqa: PLC0415  # see the module's docstring
    from proxy.client import command  # noqa: PLC0415

    parser = _Parser(prog="python -m proxy fetch", positional="[URL]")
    command.add_arguments(parser)
    try:
        return command.main(parser.parse_all(arguments), made_secret())
    except ModuleNotFoundError as error:
        if error.name != "httpx":
            raise
        parser.error("it needs httpx2 or httpx: pip install httpx2")

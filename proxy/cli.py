"""`python -m proxy [COMMAND]`: the commands and their arguments. Parses; `proxy.runtime` runs what was asked for.

Each command imports what it needs when it is chosen: `fetch` works without the server's dependencies.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from proxy.version import __version__

__all__ = ["main"]

_ABOUT = """\
A durable proxy for AI streaming APIs.

commands:
  python -m proxy [serve]        run the proxy
  python -m proxy store          run the durable-streams store alone
  python -m proxy demo           run a proxy, a scripted model and a page that shows them
  python -m proxy fetch URL      send a request through a proxy, like curl
"""

_STORE_PLACE = ("port", "host", "uds", "max_connections", "data_dir")


class _Parser(argparse.ArgumentParser):
    """Options by their whole names; every fault is one line and exit code 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False,
            add_help=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            usage="%(prog)s [options]",
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
    commands: dict[str, Callable[[list[str]], int]] = {"serve": _serve, "store": _store, "demo": _demo, "fetch": _fetch}
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
    from proxy.arguments import add_settings  # noqa: PLC0415  # see the module's docstring
    from proxy.config import GROUPS, Config  # noqa: PLC0415
    from proxy.runtime import run, serve_store  # noqa: PLC0415

    by_key = {group.key: group for group in GROUPS}
    place = [setting for setting in by_key["place"].settings if setting.name in _STORE_PLACE]
    groups = (replace(by_key["place"], title="Where the store is", settings=tuple(place)), by_key["store"])
    defaults = {"port": 4437}
    parser = _Parser(prog="python -m proxy store", description="A durable-streams server on SQLite.")
    add_settings(parser, groups, defaults)
    given = vars(parser.parse_all(arguments))
    return run(parser.prog, lambda: Config.from_sources(given, defaults=defaults), serve_store)


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


def _fetch(arguments: list[str]) -> int:
    from proxy.client import command  # noqa: PLC0415  # see the module's docstring

    parser = _Parser(prog="python -m proxy fetch")
    command.add_arguments(parser)
    try:
        return command.main(parser.parse_all(arguments))
    except ModuleNotFoundError as error:
        if error.name != "httpx":
            raise
        parser.error("it needs httpx2 or httpx: pip install httpx2")

"""`python -m proxy [store | demo | fetch]`: arguments, start-up lines, signals and exit codes."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from proxy.base.memory import keep_freed_memory
from proxy.client import command as fetch_command
from proxy.config import SETTINGS, Config, ConfigError, Setting, Value
from proxy.config.setting import shown
from proxy.version import __version__

__all__ = ["main"]

_COMMANDS = """\
commands:
  python -m proxy [serve]    run the proxy
  python -m proxy store      run the durable-streams store alone
  python -m proxy demo       run a proxy, a scripted model and a page that shows them
  python -m proxy fetch URL  send a request through a proxy, like curl

environment:
  Every option has a variable, named beside it; options come first. Credentials are never options:
"""

_STORE_SETTINGS = ("port", "host", "uds", "data_dir", "max_connections")
_STORE_DEFAULTS: dict[str, Value] = {"port": 4437}


class _Parser(argparse.ArgumentParser):
    """Options by their whole names; every fault is one line and exit code 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

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
    commands: dict[str, Callable[[list[str]], int]] = {"store": _store, "demo": _demo, "fetch": _fetch, "serve": _serve}
    if arguments and arguments[0] in commands:
        return commands[arguments[0]](arguments[1:])
    return _serve(arguments)


def _fetch(arguments: list[str]) -> int:
    parser = _Parser(prog="python -m proxy fetch")
    fetch_command.add_arguments(parser)
    try:
        return fetch_command.main(parser.parse_all(arguments))
    except ModuleNotFoundError as error:
        if error.name != "httpx":
            raise
        parser.error("it needs httpx2 or httpx: pip install httpx2")


def _serve(arguments: list[str]) -> int:
    from proxy.server import ProxyServer  # noqa: PLC0415  # `fetch` needs none of the server

    parser = _Parser(
        prog="python -m proxy",
        description="A durable proxy for AI streaming APIs.",
        epilog=_COMMANDS + _credentials(SETTINGS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    config = _config(parser, arguments, SETTINGS)

    async def serve() -> None:
        server = ProxyServer(config)
        signals = _Signals()
        if not config.access.secret and not config.access.secret_file:
            _say(f"Service secret in {server.secret_source}")
        if not config.access.allowlist:
            _say("No upstream is allowed yet: give --allow 'https://api.openai.com/**'")
        _say(f"Proxy running at {server.url}")
        await signals.first.wait()
        _say(f"Stopping: streams may run on for {config.stop.drain_timeout_seconds:g} s")
        await server.stop(drain_seconds=config.stop.drain_timeout_seconds, hurry=signals.second)

    return _run(parser.prog, serve)


def _store(arguments: list[str]) -> int:
    from proxy.standalone import StoreServer  # noqa: PLC0415  # `fetch` needs none of the server

    settings = [item for item in SETTINGS if item.name in _STORE_SETTINGS or item.name.startswith("store_")]
    parser = _Parser(
        prog="python -m proxy store",
        description="A durable-streams server on SQLite.",
        epilog="environment:\n  Every option has a variable, named beside it. Credentials are never options:\n"
        + _credentials(settings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    config = _config(parser, arguments, settings, _STORE_DEFAULTS)

    async def serve() -> None:
        server = StoreServer(config)
        signals = _Signals()
        if server.notice:
            _say(server.notice)
        _say(f"Store running at {server.url}")
        await signals.first.wait()
        await server.stop()

    return _run(parser.prog, serve)


def _demo(arguments: list[str]) -> int:
    from proxy.demo import add_arguments, run  # noqa: PLC0415  # `fetch` needs none of the server

    parser = _Parser(prog="python -m proxy demo", description="A page that shows durable streams at work.")
    add_arguments(parser)
    options = parser.parse_all(arguments)

    async def serve() -> None:
        await run(options, _say, _Signals().first)

    return _run(parser.prog, serve)


def _credentials(settings: Sequence[Setting]) -> str:
    return "".join(f"  {item.env:26}{item.help}\n" for item in settings if item.flag is None)


def _config(
    parser: _Parser, arguments: list[str], settings: Sequence[Setting], defaults: Mapping[str, Value] | None = None
) -> Config:
    """The settings from flags and environment; exits with code 2 when one is bad."""
    parser.add_argument("--version", action="version", version=f"durable-streams-proxy {__version__}")
    for item in settings:
        if item.flag is not None:
            _add(parser, item, (defaults or {}).get(item.name, item.default))
    try:
        return Config.from_sources(vars(parser.parse_all(arguments)), defaults=defaults)
    except ConfigError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _add(parser: argparse.ArgumentParser, item: Setting, default: Value) -> None:
    given = f"; default {text}" if (text := shown(replace(item, default=default))) else ""
    text = f"{item.help} [{item.env}{given}]".replace("%", "%%")
    options: dict[str, Any] = {"dest": item.name, "default": argparse.SUPPRESS, "help": text}
    if item.kind is bool:
        parser.add_argument(item.flag or "", action="store_true", **options)
    elif item.kind is tuple:
        parser.add_argument(item.flag or "", action="append", metavar=(item.unit or "text").upper(), **options)
    else:
        parser.add_argument(item.flag or "", metavar=(item.unit or "text").upper(), **options)


class _Signals:
    """SIGTERM and SIGINT as events: the first asks to stop, the second to hurry."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt
                loop.add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


def _run(prog: str, serve: Callable[[], Coroutine[Any, Any, None]]) -> int:
    keep_freed_memory(Config.of().memory)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(serve())
    except ConfigError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it installs, asyncio's own loop otherwise."""
    try:
        import uvloop  # noqa: PLC0415  # not on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


def _say(line: str) -> None:
    """Tell whoever started us; that nobody listens any more, or a log's disk is full, stops nothing."""
    try:
        print(line, flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # what is still buffered would fail again at exit
        os.close(nowhere)

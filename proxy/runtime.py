"""The process around a server: event loop, signals, exit codes, and what is printed at its start and stop.

Exit codes: 0 after a stop, 2 for a setting that cannot be used, 130 after an interrupt where signals cannot be handled.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from proxy.base.descriptors import raise_descriptor_limit
from proxy.base.logs import Repeats
from proxy.base.memory import FreedMemory, keep_freed_memory, seek_cycles_seldom
from proxy.base.tasks import Tasks
from proxy.config import Config, ConfigError
from proxy.server import ProxyServer, StopReport
from proxy.standalone import StoreServer

__all__ = ["Signals", "run", "say", "serve_proxy", "serve_store"]

logger = logging.getLogger(__name__)


class Signals:
    """SIGTERM and SIGINT as events: the first asks to stop, the second to hurry. Make it inside the loop."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt
                loop.add_signal_handler(number, self._received)

    def on_hangup(self, act: Callable[[], None]) -> None:
        """Call `act` at each SIGHUP from now on, which would end the process otherwise. Nothing on Windows."""
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, act)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


def run(prog: str, configure: Callable[[], Config], live: Callable[[Config], Coroutine[Any, Any, None]]) -> int:
    """Run `live` with the configuration in an event loop of its own; the exit code."""
    raise_descriptor_limit()  # before the configuration is made: it derives a number from the limit
    try:
        config = configure()
        for handler in logging.getLogger().handlers:
            handler.addFilter(Repeats(config.logs))
        keep_freed_memory(config.memory)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_with_upkeep(config, live))
    except ConfigError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


async def _with_upkeep(config: Config, live: Callable[[Config], Coroutine[Any, Any, None]]) -> None:
    upkeep = Tasks("process")
    upkeep.start("memory", FreedMemory(config.memory).watch())
    try:
        await live(config)
    finally:
        await upkeep.aclose()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it installs, asyncio's own loop otherwise."""
    try:
        import uvloop  # noqa: PLC0415  # not on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


async def serve_proxy(config: Config) -> None:
    """Run a proxy until a signal asks to stop it. Raises ConfigError."""
    signals = Signals()  # first: a signal that comes during the start stops what has started
    server = ProxyServer(config)
    seek_cycles_seldom(config.memory)
    _say_started("Proxy", server, signals)
    await signals.first.wait()
    drain = config.stop.drain_timeout_seconds
    say(_stopping(server.transfers, drain))
    stopped = await server.stop(drain_seconds=drain, hurry=signals.second)
    say(_stopped(stopped))


async def serve_store(config: Config) -> None:
    """Run the embedded store alone until a signal asks to stop it. Raises ConfigError."""
    signals = Signals()
    server = StoreServer(config)
    seek_cycles_seldom(config.memory)
    _say_started("Store", server, signals)
    await signals.first.wait()
    await server.stop()


def _say_started(what: str, server: ProxyServer | StoreServer, signals: Signals) -> None:
    """Print the start-up lines: when the last one is there, connections are accepted, and SIGHUP reloads."""
    if server.has_certificates:
        signals.on_hangup(partial(_reload, server))
    for notice in server.notices:
        say(notice)
    for url in server.urls[1:]:
        say(f"Listening at {url}")
    say(f"{what} running at {server.urls[0]}")


def _reload(server: ProxyServer | StoreServer) -> None:
    try:
        warnings = server.reload()
    except ConfigError as error:
        logger.warning("certificates not reloaded: %s (the old ones stay in use)", error)
        return
    for warning in warnings:
        logger.warning(warning)
    say("Certificates reloaded")


def _stopping(running: int, seconds: float) -> str:
    if not running:
        return "Stopping: no transfer is running"
    these, have = ("transfer is", "has") if running == 1 else ("transfers are", "have")
    return (
        f"Stopping: {running} {these} running and {have} {seconds:g} s to end; a second signal (Ctrl-C) ends them now"
    )


def _stopped(stopped: StopReport) -> str:
    if not stopped.ended and not stopped.interrupted:
        return "Stopped"
    return f"Stopped: transfers that ended by themselves: {stopped.ended}, interrupted: {stopped.interrupted}"


def say(line: str) -> None:
    """Print a line at once. A closed stdout, or a full disk behind it, stops nothing."""
    try:
        print(line, flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # what is still buffered would fail again at exit
        os.close(nowhere)

"""From a URL to the engine: what is asked of the server first, and which servers stand behind which URL."""

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from proxy.store.port import StoreUnusable
from proxy.store.settings import EngineSettings, StoreSettings
from proxy.store.shared.engine import SharedEngine
from proxy.store.valkey.backend import ValkeyBackend
from proxy.store.valkey.check import Facts, checked, facts_of, promise
from proxy.store.valkey.cluster import ClusterServers
from proxy.store.valkey.connection import Lost
from proxy.store.valkey.dial import EngineDialler, Refused
from proxy.store.valkey.keys import Namer
from proxy.store.valkey.place import EnginePlace, Kind, PlaceError, parse_place
from proxy.store.valkey.resp import ServerError
from proxy.store.valkey.sentinel import primary_of
from proxy.store.valkey.servers import OneServer, Servers

__all__ = ["open_engine"]


def open_engine(
    engine: EngineSettings, settings: StoreSettings, tls: ssl.SSLContext | None
) -> tuple[SharedEngine, str]:
    """The engine at the URL of `engine`, and what its acknowledgement is worth, in one sentence.

    Asks the server first, which blocks; call it in the event loop. Raises StoreUnusable, without any credential.
    """
    place = _place(engine)
    facts = _in_thread(lambda: _examined(place, engine, tls))
    dialler = EngineDialler(place, engine, tls)
    namer = Namer(engine.prefix)
    is_cluster = place.kind is Kind.CLUSTER
    servers: Servers = (ClusterServers if is_cluster else OneServer)(dialler, engine, namer)
    return SharedEngine(ValkeyBackend(servers, namer, engine), settings), promise(facts, engine.replicas)


def _place(engine: EngineSettings) -> EnginePlace:
    url = engine.url
    if engine.url_file:
        try:
            url = Path(engine.url_file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise StoreUnusable(f"{engine.url_file} cannot be read: {reason}") from None
    try:
        place = parse_place(url)
    except PlaceError as error:
        raise StoreUnusable(f"the URL {error}") from None
    return replace(place, password=engine.password) if engine.password else place


async def _examined(place: EnginePlace, engine: EngineSettings, tls: ssl.SSLContext | None) -> Facts:
    """What the server says, when it can be used. Raises StoreUnusable."""
    try:
        dialler = EngineDialler(place, engine, tls)
        node = await primary_of(dialler)()
        connection = await dialler.open(node, lambda _: None, lambda _: None, is_primary=False)
        try:
            return checked(await facts_of(connection), is_cluster=place.kind is Kind.CLUSTER)
        finally:
            connection.abort("the check is over")
    except (Refused, Lost, ServerError) as error:
        raise StoreUnusable(str(error)) from None


def _in_thread(work: Callable[[], Awaitable[Facts]]) -> Facts:
    """Run a coroutine to its end in a loop of its own: the caller is inside one, and cannot wait."""
    found: list[Facts] = []
    failed: list[BaseException] = []

    async def run() -> None:
        found.append(await work())

    def target() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # it is raised in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=target, name="store-check")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]

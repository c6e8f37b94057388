"""A whole proxy as a Handler: the app with its embedded store, storage wrapped as a test likes."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from proxy.app import App
from proxy.config import Config
from proxy.http.message import Handler
from proxy.store import Store
from proxy.streams.client import Endpoint
from tests.kit.calls import Answer, Client

__all__ = ["SECRET", "House", "code", "path_of", "running"]

SECRET = "the service secret"
Wrap = Callable[[Handler], Handler]


class House(App):
    """The app, and a client that calls its router."""

    def __init__(self, config: Config, wrap: Wrap) -> None:
        self._wrap = wrap
        super().__init__(config, (SECRET,))
        self.client = Client(self.router)

    def _endpoint(self, store: Store | None) -> Endpoint:
        endpoint = super()._endpoint(store)
        return replace(endpoint, handler=self._wrap(endpoint.handler))

    async def create(self, url: str, body: bytes = b"", **headers: str) -> Answer:
        """A create request with the service secret."""
        given = {"upstream_url": url, "upstream_method": "POST", "authorization": f"Bearer {SECRET}"} | headers
        return await self.client.call("POST", "/v1/proxy", body, **given)

    async def get(self, target: str, **headers: str) -> Answer:
        """A request with the service secret."""
        return await self.client.call("GET", target, authorization=f"Bearer {SECRET}", **headers)

    async def whole(self, path: str) -> Answer:
        """A read once the transfer is over."""
        transfer = self.transfers.get(path.rpartition("/")[2])
        if transfer is not None:
            await transfer.ended.wait()
        return await self.get(path)


def code(answered: Answer) -> tuple[int, str]:
    """Status and error code of an error answer."""
    return answered.status, json.loads(answered.body)["error"]["code"]


def path_of(created: Answer) -> str:
    """`/v1/proxy/{id}` of a 201."""
    assert created.status in (200, 201), (created.status, created.body)
    location = created["location"]
    assert location is not None
    return location.partition("?")[0]


@asynccontextmanager
async def running(directory: Path, wrap: Wrap = lambda handler: handler, **settings: object) -> AsyncIterator[House]:
    """A house for the length of a block; `settings` are Config's."""
    values = {"allowlist": ("http://localhost:*/**",), "data_dir": str(directory), **settings}
    house = House(Config.of(**values), wrap)  # type: ignore[arg-type]  # Config checks what it is given
    house.open()
    try:
        yield house
    finally:
        await house.end_transfers()
        await house.aclose()

"""A durable-streams server: `protocol` speaks HTTP, `port` says what an engine does, and there are two kinds of it.

`sqlite` is embedded and has its streams to itself. `shared` is the engine for storage that several processes write;
`valkey` is such a storage. To read it, begin with `port` and `model`, go up to `protocol.service`, and down to
`sqlite.engine` and `sqlite.commits`, or to `shared.engine` and `valkey.backend`.
"""

from proxy.store.port import StoreUnusable
from proxy.store.protocol.pages import without_foreign_pages
from proxy.store.protocol.tokens import with_tokens
from proxy.store.settings import EngineSettings, StoreSettings
from proxy.store.store import EmbeddedStore, Store, open_shared_store, open_store, verify_store

__all__ = [
    "EmbeddedStore", "EngineSettings", "Store", "StoreSettings", "StoreUnusable", "open_shared_store", "open_store",
    "verify_store", "with_tokens", "without_foreign_pages",
]  # fmt: skip

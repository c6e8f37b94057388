"""A durable-streams server: `protocol` speaks HTTP, `port` says what an engine does, `sqlite` is the engine there is.

To read it, begin with `port` and `model`, go up to `protocol.service`, and down to `sqlite.engine` and
`sqlite.commits`.
"""

from proxy.store.port import StoreUnusable
from proxy.store.protocol.pages import without_foreign_pages
from proxy.store.protocol.tokens import with_tokens
from proxy.store.settings import StoreSettings
from proxy.store.store import Store, open_store

__all__ = ["Store", "StoreSettings", "StoreUnusable", "open_store", "with_tokens", "without_foreign_pages"]

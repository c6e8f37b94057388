"""An embedded durable-streams server on SQLite: `sqlite` (schema), `engine` (writes, wake-ups), `service` (protocol).

A reader starts with `service`, goes on to `engine` and `rules`, and finds the disk in `writer`, `writing`, `reading`.
"""

from proxy.store.protocol.tokens import with_tokens
from proxy.store.settings import StoreSettings
from proxy.store.sqlite.lock import DirectoryInUse, lock_data_directory
from proxy.store.sqlite.schema import ForeignDatabase, UnsafeSqlite
from proxy.store.store import Store, open_store

__all__ = [
    "DirectoryInUse",
    "ForeignDatabase",
    "Store",
    "StoreSettings",
    "UnsafeSqlite",
    "lock_data_directory",
    "open_store",
    "with_tokens",
]

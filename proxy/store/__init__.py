"""An embedded durable-streams server on SQLite: `sqlite` (schema), `engine` (writes, wake-ups), `service` (protocol).

A reader starts with `service`, goes on to `engine` and `rules`, and finds the disk in `writer`, `writing`, `reading`.
"""

from proxy.store.lock import DirectoryInUse, lock_data_directory
from proxy.store.settings import StoreSettings
from proxy.store.sqlite import ForeignDatabase, UnsafeSqlite
from proxy.store.store import Store, open_store
from proxy.store.tokens import with_tokens

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

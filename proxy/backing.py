"""Which engine the store in this process has: its own disk, or a Redis or Valkey that other instances use, too."""

from proxy.config import Config, ConfigError, data_path
from proxy.net.client_tls import client_context
from proxy.net.tls import TlsError
from proxy.store import EmbeddedStore, Store, StoreUnusable, open_shared_store, open_store

__all__ = ["open_backend"]


def open_backend(config: Config, *, is_public: bool) -> Store:
    """The store that the settings name: an `EmbeddedStore` unless they name a server.

    `is_public` lets shared caches keep responses that cannot change any more. Blocks for some milliseconds; call it in
    the event loop. Raises ConfigError.
    """
    engine = config.engine
    if not engine.url and not engine.url_file:
        return _embedded(config, is_public=is_public)
    try:
        tls = client_context(config.place.ca_file)
    except TlsError as error:
        raise ConfigError(f"--ca-file: {error}") from None
    try:
        return open_shared_store(engine, config.store, tls, is_public=is_public)
    except StoreUnusable as error:
        raise ConfigError(f"{'--store-url' if engine.url else '--store-url-file'}: {error}") from None


def _embedded(config: Config, *, is_public: bool) -> EmbeddedStore:
    directory = data_path(config.place)
    try:
        return open_store(directory, config.store, is_public=is_public)
    except StoreUnusable as error:
        raise ConfigError(f"--data-dir: {error}") from None

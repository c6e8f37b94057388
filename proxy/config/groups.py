"""Every setting once, in groups: the order and the words of `--help` and of docs/configuration.md.

A setting reaches the code that uses it by its name: see `proxy.config.sections`.
"""

from proxy.config.relay_settings import ENGINE, INSTANCES, STORAGE, STORE, TRANSFERS, UPSTREAMS
from proxy.config.server_settings import ACCESS, CLIENTS, PLACE, STOP, TLS
from proxy.config.setting import Group, Setting

__all__ = ["GROUPS", "SETTINGS"]

GROUPS: tuple[Group, ...] = (PLACE, TLS, ACCESS, CLIENTS, UPSTREAMS, TRANSFERS, STORAGE, INSTANCES, STOP, STORE, ENGINE)

SETTINGS: tuple[Setting, ...] = tuple(setting for group in GROUPS for setting in group.settings)

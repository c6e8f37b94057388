"""The configuration: every setting once, read from flags, environment or Python, and given to the rooms in sections.

`setting` says what a setting is, `groups` lists them all, `numbers` holds what nobody sets, `config` fills the
sections. A new setting is one line in a group, and a field of its name in the settings of the room that uses it.
"""

from proxy.config.config import Config, EgressSettings
from proxy.config.groups import GROUPS, SETTINGS
from proxy.config.secret import data_path, found_secrets, service_secrets
from proxy.config.setting import ConfigError, Group, Setting, Value

__all__ = [
    "GROUPS",
    "SETTINGS",
    "Config",
    "ConfigError",
    "EgressSettings",
    "Group",
    "Setting",
    "Value",
    "data_path",
    "found_secrets",
    "service_secrets",
]

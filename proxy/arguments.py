"""Settings as command-line options, in the groups of docs/configuration.md. Owns their help; checks no value."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from proxy.config import Group, Setting, Value
from proxy.config.setting import shown

__all__ = ["add_settings"]

_METAVARS = {"s": "TIME", "bytes": "SIZE"}


def add_settings(
    parser: argparse.ArgumentParser, groups: Sequence[Group], defaults: Mapping[str, Value] | None = None
) -> None:
    """Add an option for each setting that has a flag, and the credentials to the epilog.

    The parsed options are texts, lists of texts and True by the settings' names, as `Config.from_sources` takes them;
    those that were not given are absent. `defaults` are the command's own, for the help.
    """
    credentials: list[Setting] = []
    for group in groups:
        section = parser.add_argument_group(group.title)
        for setting in group.settings:
            if setting.flag is None:
                credentials.append(setting)
            else:
                default = (defaults or {}).get(setting.name, setting.default)
                section.add_argument(setting.flag, **_options(replace(setting, default=default)))
    parser.epilog = (
        "environment:\n  A setting has a variable, named in brackets; the option counts when both are given.\n"
    )
    if credentials:
        parser.epilog += "  Credentials have a variable only:\n"
        parser.epilog += "".join(f"  {setting.env:26}{setting.help}\n" for setting in credentials)


def _options(setting: Setting) -> dict[str, Any]:
    default = shown(setting)
    text = f"{setting.help} [{setting.env}{'; default ' if default else ''}{default}]".replace("%", "%%")
    options: dict[str, Any] = {"dest": setting.name, "default": argparse.SUPPRESS, "help": text}
    if setting.kind is bool:
        return options | {"action": "store_true"}
    if setting.kind is tuple:
        options["action"] = "append"
    return options | {"metavar": _METAVARS.get(setting.unit, setting.unit.upper() or "TEXT")}

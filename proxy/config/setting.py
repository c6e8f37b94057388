"""What a setting is: name, default, flag, variable, unit and bounds, and how its value is read from text.

Owns the spelling of values (`10MiB`, `1h30m`, `a,b`) and the errors about a single value. Knows no setting by name.
"""

import math
import re
from dataclasses import KW_ONLY, dataclass

__all__ = ["ConfigError", "Group", "Setting", "Value", "parsed", "parsed_number", "shown", "with_unit"]

Value = bool | int | float | str | tuple[str, ...]

_SIZES = {
    "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_TIMES = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([kmgt]i?b|b)", re.IGNORECASE)
_NUMBER = re.compile(r"(-?[0-9]{1,18})(\.[0-9]+)?")
_TIME = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(ms|[smhd])", re.IGNORECASE)
_SWITCH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class ConfigError(Exception):
    """A setting cannot be used; the message names it and says why, in one line, without any secret."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, as the groups declare it."""

    name: str
    """The name in Python; flag and variable follow from it unless `option` or `variable` say otherwise."""
    default: Value
    """The value when nothing else is given; its type is the setting's type."""
    help: str
    """One sentence that is read alone: what the value means, and what follows from it."""
    _: KW_ONLY
    unit: str = ""
    """What a plain number counts: `bytes`, `s` for seconds, `streams`, …; for text, what it is: `path`, `URL`, …"""
    minimum: float = 0
    """The smallest number that is accepted."""
    maximum: float = math.inf
    """The largest number that is accepted."""
    option: str = ""
    """The flag, when it does not follow from the name."""
    variable: str = ""
    """The environment variable, when it does not follow from the name."""
    is_credential: bool = False
    """A credential has no flag, because everybody on a machine can read the arguments of its processes."""

    @property
    def flag(self) -> str | None:
        """The flag, None for a credential."""
        if self.is_credential:
            return None
        return self.option or "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        """The environment variable."""
        return self.variable or "PROXY_" + self.name.upper()

    @property
    def kind(self) -> type:
        """bool, int, float, str or tuple."""
        return type(self.default)

    @property
    def spelled(self) -> str:
        """How messages name the setting."""
        return self.flag or self.env

    def check(self, value: Value) -> None:
        """Raise ConfigError when a value is of another type, or a number out of bounds."""
        if type(value) is not self.kind and not (self.kind is float and type(value) is int):
            raise ConfigError(f"{self.spelled} must be {_expected(self)}, not {type(value).__name__}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        if not self.minimum <= value < math.inf:
            raise ConfigError(f"{self.spelled} must be at least {self.minimum:g}, not {value:g}")
        if value > self.maximum:
            raise ConfigError(f"{self.spelled} must be at most {self.maximum:.15g}, not {value:.15g}")


@dataclass(frozen=True, slots=True)
class Group:
    """Settings about one thing; `key` names the group in tables, `title` is its heading in `--help` and in the docs."""

    key: str
    title: str
    settings: tuple[Setting, ...]


def parsed(setting: Setting, text: str, named: str) -> Value:
    """The value that `text` spells. `named` is the flag or variable that it came from, for the message of ConfigError.

    Text of a tuple is a list with commas between its items, except for a credential, which may hold a comma.
    """
    if setting.kind is str:
        return text
    if setting.kind is tuple:
        if setting.is_credential:
            return (text,)
        return tuple(item for item in (part.strip() for part in text.split(",")) if item)
    if setting.kind is bool:
        if text.lower() not in _SWITCH:
            raise ConfigError(f"{named} must be true or false, not {text!r}")
        return _SWITCH[text.lower()]
    return parsed_number(setting, text, named)


def parsed_number(setting: Setting, text: str, named: str) -> int | float:
    """The number that `text` spells, as `parsed` does."""
    value = _number(setting.unit, text.strip())
    if value is None:
        raise ConfigError(f"{named} must be {_expected(setting)}, not {text!r}")
    if setting.kind is float:
        return float(value)
    if value != int(value):
        raise ConfigError(f"{named} must be a whole number of {_plural(setting.unit)}, not {text!r}")
    return int(value)


def _number(unit: str, text: str) -> float | None:
    """The number in the setting's unit; None when `text` is none."""
    if plain := _NUMBER.fullmatch(text):
        return float(text) if plain[2] else int(text)
    if unit == "bytes" and (size := _SIZE.fullmatch(text)):
        return float(size[1]) * _SIZES[size[2].lower()]
    if unit == "s":
        parts = _TIME.findall(text)
        if parts and "".join(number + suffix for number, suffix in parts) == text.replace(" ", ""):
            return sum(float(number) * _TIMES[suffix.lower()] for number, suffix in parts)
    return None


def _expected(setting: Setting) -> str:
    if setting.unit == "bytes":
        return "a number of bytes, as 65536, 64KiB or 10MB"
    if setting.unit == "s":
        return "a number of seconds, as 90, 90s, 1m30s or 500ms"
    kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return kinds.get(setting.kind, "a list of texts")


def _plural(unit: str) -> str:
    return "seconds" if unit == "s" else unit


def shown(setting: Setting) -> str:
    """The default as a user would write it: `64KiB`, `1h`, `a, b`; empty for none."""
    default = setting.default
    if isinstance(default, bool):
        return "on" if default else ""
    if isinstance(default, tuple):
        return ", ".join(default)
    if isinstance(default, str):
        return default
    return with_unit(default, setting.unit)


def with_unit(number: float, unit: str) -> str:
    """A number as a user would write it, with the largest unit that keeps it whole; plain when it has no unit."""
    if unit == "bytes" and number:
        for suffix, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if number % size == 0:
                return f"{number // size:g}{suffix}"
    if unit == "s" and number:
        for suffix, seconds in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
            if number % seconds == 0:
                return f"{number // seconds:g}{suffix}"
        return f"{number * 1000:g}ms" if number < 1 else f"{number:g}s"
    return f"{number:g}" if isinstance(number, float) else str(number)

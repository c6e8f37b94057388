"""The tables in pages that follow from the code: `python -m tests.doc_tables` writes them anew.

Owns what lies between `<!-- settings: … -->` or `<!-- modules: … -->` and `<!-- end -->`. The words are those of
`proxy.config` and of the modules' own first sentences.
"""

import ast
import re
from pathlib import Path

from proxy.config import SETTINGS, Setting

__all__ = ["PAGES", "ROOT", "modules", "with_tables"]

ROOT = Path(__file__).resolve().parent.parent

PAGES = (ROOT / "README.md", ROOT / "docs" / "configuration.md", ROOT / "docs" / "design.md")

IMPORTANT = (
    "port", "host", "allowlist", "secret", "secret_file", "durable_streams_url", "data_dir", "public_url",
    "cors_origin", "stream_ttl_seconds", "url_expiration_seconds", "max_response_bytes", "max_request_bytes",
    "max_transfers", "upstream_timeout_seconds", "inactivity_timeout_seconds", "max_transfer_seconds",
    "drain_timeout_seconds",
)  # fmt: skip

# Where a section of docs/configuration.md begins; it goes on to the next one.
SECTIONS = {
    "place": "port",
    "access": "allowlist",
    "lives": "stream_ttl_seconds",
    "sizes": "max_response_bytes",
    "numbers": "max_transfers",
    "times": "head_timeout_seconds",
    "store": "store_max_bytes",
}

_TABLE = re.compile(r"(<!-- (settings|modules): ([\w.]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(page: str) -> str:
    """`page` with every table as it should be."""
    return _TABLE.sub(lambda found: f"{found[1]}\n{_written(found[2], found[3])}\n{found[4]}", page)


def modules(folder: str) -> list[Path]:
    """The modules of a folder of the package ("proxy" for those at its top, a dot before a folder inside), in order."""
    path = ROOT / "proxy"
    if folder != "proxy":
        path = path.joinpath(*folder.split("."))
    return sorted(each for each in path.glob("*.py") if each.name != "__init__.py")


def _written(kind: str, name: str) -> str:
    return _table(_chosen(name)) if kind == "settings" else _module_table(name)


def _module_table(folder: str) -> str:
    rows = ["| Module | |", "|---|---|"]
    for path in modules(folder):
        text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
        sentence = re.split(r"(?<=[.])\s+(?=[A-Z])", text)[0].removesuffix(".").replace("|", "\\|")
        rows.append(f"| `{path.stem}` | {sentence} |")
    return "\n".join(rows) + "\n"


def _chosen(name: str) -> list[Setting]:
    if name == "important":
        by_name = {setting.name: setting for setting in SETTINGS}
        return [by_name[each] for each in IMPORTANT]
    names = [setting.name for setting in SETTINGS]
    starts = [names.index(first) for first in SECTIONS.values()]
    at = list(SECTIONS).index(name)
    return list(SETTINGS[starts[at] : ([*starts, len(names)])[at + 1]])


def _table(settings: list[Setting]) -> str:
    rows = ["| Flag | Variable | Default | Unit | Meaning |", "|---|---|---|---|---|"]
    for each in settings:
        flag = f"`{each.flag}`" if each.flag else "none"
        cells = (flag, f"`{each.env}`", _default(each.default), each.unit, each.help)
        rows.append("| " + " | ".join(cells).replace("|  |", "| |").replace("|  |", "| |") + " |")
    return "\n".join(rows) + "\n"


def _default(value: object) -> str:
    if isinstance(value, bool):
        return "off"
    if isinstance(value, tuple):
        return ", ".join(f"`{item}`" for item in value)
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`" if value != "" else ""


def main() -> None:
    """Write the tables."""
    for path in PAGES:
        path.write_text(with_tables(path.read_text()))


if __name__ == "__main__":
    main()

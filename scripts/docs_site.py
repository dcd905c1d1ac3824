"""What mkdocs.yml cannot express: the navigation goes on with the pages that it does not name, by folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

FOLDERS = {"commands": "Commands", "errors": "Codes"}


def on_config(config: Any) -> None:
    """Complete the navigation. mkdocs calls this."""
    named = set(_names(config.nav))
    docs = Path(config.docs_dir)
    rest = [str(path.relative_to(docs)) for path in sorted(docs.rglob("*.md"), key=_number_key)]
    for folder, title in FOLDERS.items():
        config.nav.append({title: [name for name in rest if PurePosixPath(name).parts[0] == folder]})
        named |= {name for name in rest if name.startswith(f"{folder}/")}
    config.nav += [name for name in rest if name not in named]


def _names(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [name for each in (nav.values() if isinstance(nav, dict) else nav) for name in _names(each)]


def _number_key(path: Path) -> tuple[str, int, str]:
    """Return a key that sorts codes by their number."""
    kind, _, number = path.stem.rpartition("-")
    return f"{path.parent}/{kind}", int(number) if number.isdigit() else 0, path.stem

"""Names of a package that are imported when they are used for the first time (PEP 562)."""

from __future__ import annotations

import sys


def import_name(package: dict[str, object], homes: dict[str, tuple[str, ...]], name: str) -> object:
    """Return what a name of a package is in its home, and add it to the package's names. Raises AttributeError."""
    home = next((home for home, names in homes.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
    __import__(home)
    value = package[name] = getattr(sys.modules[home], name)
    return value

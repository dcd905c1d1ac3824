"""The version of everything here: the package's, from which its metadata has it, and what the programs say."""

from __future__ import annotations

VERSION = "0.1.0"


def version_text(program: str) -> str:
    """Return what a program says of itself on one line."""
    return f"{program} {VERSION}"

"""Texts of other programs, made harmless where they are shown; names that were misspelt; durations.

Names, comments and prefixes in a pod's rules are any bytes that the pod likes: an escape sequence would drive the
terminal of its reader, and a line end would forge a line of our output.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

EXCLUSIVE_WORDS = (("include", "exclude"), ("inbound", "outbound"), ("port", "cidr"))
"""Names with different words of a pair mean different things, however alike they are."""
ESCAPED_LINE_ENDS = {ord("\n"): "\\n", ord("\r"): "\\r", 0: "\\0"}

JSON_SCHEMA_NAME = "capture/v1"
"""The layout of every JSON output: keys are added, those that are there keep their meaning."""


def without_line_ends(text: str) -> str:
    """Return the text with line ends and NULs as escapes."""
    return text.translate(ESCAPED_LINE_ENDS)


def printable(text: str, keep: str = "") -> str:
    """Return the text with all that is not printable as escapes of Python, except the characters to keep.

    That is controls, format characters such as those that change the direction of writing, surrogates and what
    Unicode does not assign (``str.isprintable``).
    """
    others = text
    for character in keep:
        others = others.replace(character, "")
    if others.isprintable():
        return text
    return "".join([
        character if character.isprintable() or character in keep else ascii(character)[1:-1] for character in text
    ])  # fmt: skip


def shortened(text: str, limit: int = 80) -> str:
    """Return the text for an error or a warning: no more characters than the limit, and how many there were."""
    ending = f"... ({len(text)} characters)"
    return text if len(text) <= limit else text[: limit - len(ending)] + ending


def plural(number: int, noun: str) -> str:
    """Return a number of things: ``1 rule``, ``2 rules``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def enumerated(names: Iterable[str], conjunction: str = "or") -> str:
    """Return names as in a sentence: ``netlink, restore or iptc``."""
    *others, last = names
    return f"{', '.join(others)} {conjunction} {last}" if others else last


def closest_name(name: str, known: Iterable[str]) -> str:
    """Return the known name that is most like an unknown one, and may mean the same; "" if there is none."""
    import difflib  # only where something is wrong

    others = [two for pair in EXCLUSIVE_WORDS for one, two in (pair, pair[::-1]) if one in name]
    candidates = [each for each in known if not any(other in each for other in others)]
    return next(iter(difflib.get_close_matches(name, candidates, n=1)), "")


def duration(seconds: float) -> str:
    """Return a duration for a person: ``45 s``, ``12 min``, ``3 h``, ``2 days``."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"

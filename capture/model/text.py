"""Text that another program wrote, made harmless where it is shown.

Names, comments and prefixes in a pod's rules are any bytes that the pod likes: an escape sequence would drive the
terminal of its reader, and a line end would forge a line of our output.
"""

from __future__ import annotations

LINE_ENDS = {ord("\n"): "\\n", ord("\r"): "\\r", 0: "\\0"}


def without_line_ends(text: str) -> str:
    """Return the text with line ends and NULs as escapes."""
    return text.translate(LINE_ENDS)


def printable(text: str, keep: str = "") -> str:
    """Return the text with all that is not printable as escapes of Python, except the characters to keep.

    That is controls, format characters such as those that change the direction of writing, surrogates and what
    Unicode does not assign (``str.isprintable``).
    """
    if text.isprintable():
        return text
    return "".join([
        character if character.isprintable() or character in keep else ascii(character)[1:-1] for character in text
    ])  # fmt: skip

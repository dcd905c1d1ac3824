"""Text in a width: long lines folded with a hanging indentation, tables whose columns shrink. Pure.

``rich`` does this as well; importing what of it prints a table takes 18 ms, a seventh of `capture dump`, where this
takes one. And it would print past ``streams.py``, which keeps the comments of rules from driving a terminal.
"""

from __future__ import annotations

from itertools import zip_longest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LINE_MARKS = ("=>", "?")
"""Marks that may precede a line's text, and hang with its indentation."""
CELL_GAP = 2
"""Blanks between two columns."""
MIN_COLUMN = 8
"""A column is not narrower than this."""


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes; wide characters take two."""
    if text.isascii():
        return len(text)
    import unicodedata  # for texts of others, which are rare

    columns = 0
    for character in text:
        if not unicodedata.combining(character):
            columns += 2 if unicodedata.east_asian_width(character) in "WF" else 1
    return columns


def folded(line: str, width: int, hang: int | None = None) -> list[str]:
    """Return a line as several that are no wider; all but the first begin with ``hang`` blanks.

    Without ``hang``, two more than the line itself begins with. A `command` in back quotes stays whole where it can.
    """
    if width_of(line) <= width:
        return [line]
    hang = min(_indentation(line) + 2 if hang is None else hang, width // 2)
    lines, current = [], ""
    for gap, word in _words(line, width - hang):
        if not current.strip() or width_of(current) + len(gap) + width_of(word) <= width:
            current += gap + word
        else:
            lines.append(current)
            current = " " * hang + word
        while width_of(current) > width:
            place = _cut_position(current, width)
            lines.append(current[:place])
            current = " " * hang + current[place:]
    return [*lines, current]


def _indentation(line: str) -> int:
    text = line.lstrip(" ")
    for mark in LINE_MARKS:
        if text.startswith(f"{mark} "):
            text = text.removeprefix(mark).lstrip(" ")
    return len(line) - len(text)


def _words(line: str, width: int) -> Iterator[tuple[str, str]]:
    """Yield the words of a line, each with the blanks before it; a command in back quotes is one if it has room."""
    words: list[tuple[str, str]] = []
    for gap, word in _parts(line, width):
        if gap or not words:
            words.append((gap, word))
        else:  # a comma or a bracket at a command
            before, command = words.pop()
            words.append((before, command + word))
    yield from words


def _parts(line: str, width: int) -> Iterator[tuple[str, str]]:
    gap = ""
    parts = line.split("`")
    for index, part in enumerate(parts):
        is_command = index % 2 == 1
        end = "`" if index + 1 < len(parts) else ""  # the last quote of a line may have no other
        quoted = f"`{part}{end}" if is_command else part
        pieces = [quoted] if is_command and width_of(quoted) <= width else quoted.split(" ")
        for number, word in enumerate(pieces):
            gap += " " if number else ""
            if word:
                yield gap, word
                gap = ""


def _cut_position(text: str, width: int) -> int:
    """Return where to cut a text that has no blank to be broken at: after a comma if there is one, else at the end."""
    end = width
    while width_of(text[:end]) > width:
        end -= 1
    begin = len(text) - len(text.lstrip(" "))
    comma = text.rfind(",", begin, end)
    return comma + 1 if comma > begin else max(end, begin + 1)


def folded_table(rows: Sequence[Sequence[str]], width: int | None = None, gap: int = CELL_GAP) -> Iterator[str]:
    """Yield the lines of rows whose columns are aligned; with ``width``, cells are folded until all of them fit."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(width_of, column)) for column in columns]
    if width is not None:
        words = [max(width_of(word) for cell in column for word in (*cell.split(), "")) for column in columns]
        widths = _shrunk_widths(widths, words, width - gap * (len(widths) - 1))
    for row in rows:
        cells = [folded(cell, column, 0) for cell, column in zip(row, widths, strict=True)]
        for parts in zip_longest(*cells, fillvalue=""):
            padded = [f"{part}{' ' * (column - width_of(part))}" for part, column in zip(parts, widths, strict=True)]
            yield (" " * gap).join(padded).rstrip(" ")


def _shrunk_widths(widths: list[int], words: list[int], room: int) -> list[int]:
    """Return widths that need no more room: the widest columns give first, and words are cut last."""
    widths = list(widths)
    for least in (words, [MIN_COLUMN] * len(words)):
        while sum(widths) > room and any(map(int.__gt__, widths, least)):
            _, widest_column = max((width, column) for column, width in enumerate(widths) if width > least[column])
            widths[widest_column] -= 1
    return widths

"""The examples of the documentation, and how what they print is compared with what is printed today.

    examples(path) -> list[Example]           the fenced blocks of a page, each with its language and what prepares it
    Example.commands() -> list[Command]       of a block in `console`: what is typed, and what it prints
    is_printed(shown, printed) -> bool        whether a text is the one that a page shows
    normalised(text) -> str                   a text with the names of NORMALISERS where runs differ

A comment before a block, which readers do not see, names what is needed for it::

    <!-- before: iptables-nft -t nat -I OUTPUT -j ACCEPT -->    commands that come first
    <!-- shape of: capture dump --format json -->               the block has keys of what this prints, not its values
    <!-- printed by: istio-init --dry-run -->                   the block is in what this prints
    <!-- read by: capture-cni -->                               the block is configuration that the plugin takes
    <!-- files of: the bundle -->                               the block begins its lines with names of files
    <!-- picture of: the chains -->                             the block is a drawing; the chains in it exist
    <!-- elsewhere: a node with containerd -->                  what it prints is of a place that is not here
"""

import dataclasses
import re
from pathlib import Path

PROMPTS = ("# ", "$ ")
_BLOCK = re.compile(
    r"(?P<comments>(?:^<!-- (?:(?!-->).)* -->\n)*)"
    r"^(?P<indent> *)```(?P<language>\w*)(?: \S+)?\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_COMMENT = re.compile(
    r"^<!-- (before|shape of|printed by|read by|files of|picture of|elsewhere): (.*?) -->$", re.MULTILINE | re.DOTALL
)

NORMALISERS = {
    "time of day": (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?Z?", "TIME"),
    "duration": (r"\b\d+(?:\.\d+)? m?s\b", "DURATION"),
    "counters": (r"\bpackets \d+ bytes \d+|\[\d+:\d+\]", "COUNTERS"),
    "request id": (r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "ID"),
    "port of a client": (r"(?<=[\d\]]:)(?:3[2-9]|4\d|5\d|60)\d{3}\b", "PORT"),
    "process": (r"\b(pid|process) \d+", r"\1 N"),
    "namespace": (r"/proc/\d+/(?:fd/\d+|ns/net)", "NAMESPACE"),
    "how lines are broken": (r"\s+", " "),
}
"""Differences between two runs, by name: the pattern, and its replacement."""


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """A typed command and its output; "" where a page does not show that."""

    text: str
    output: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    comments: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def before(self) -> list[str]:
        """Return the commands that come first."""
        return [what for kind, what in self.comments if kind == "before"]

    def comment(self, kind: str) -> str:
        """Return the text of a comment of this kind; "" where there is none."""
        return dict(self.comments).get(kind, "")

    def commands(self) -> list[Command]:
        """Return the commands of a block in ``console``, in order."""
        found: list[Command] = []
        lines = iter(self.text.splitlines())
        for line in lines:
            if line.startswith(PROMPTS):
                typed = [line[2:]]
                while typed[-1].endswith("\\"):
                    typed.append(next(lines))
                if document := re.search(r"<<'(.+?)'$", typed[-1]):
                    while typed[-1] != document[1]:
                        typed.append(next(lines))
                found.append(Command("\n".join(typed), ""))
            elif found:
                found[-1] = dataclasses.replace(found[-1], output=f"{found[-1].output}{line}\n")
            else:
                raise ValueError(f"{self}: a block in console begins with a prompt: {line}")
        return found


def examples(path: Path) -> list[Example]:
    """Return the fenced blocks of a page, in order."""
    text = path.read_text(encoding="utf-8")
    return [
        Example(
            page=path.name,
            line=text.count("\n", 0, block.start("language")) + 1,
            language=block["language"],
            text=re.sub(f"^{block['indent']}", "", block["text"], flags=re.MULTILINE),
            comments=tuple(_COMMENT.findall(block["comments"])),
        )
        for block in _BLOCK.finditer(text)
    ]


def normalised(text: str) -> str:
    """Return a text in which nothing differs between two runs that should not."""
    for pattern, name in NORMALISERS.values():
        text = re.sub(pattern, name, text)
    return text.strip()


def is_printed(shown: str, printed: str) -> bool:
    """Return whether a text is what a page shows of it; ``[...]`` there is anything."""
    parts = [part.strip() for part in normalised(shown).split("[...]")]
    return re.search(".*?".join(map(re.escape, parts)), normalised(printed), re.DOTALL) is not None


def key_paths(value: object, where: str = "") -> set[str]:
    """Return where a JSON value has keys: ``.tables[].chains[].chain``."""
    if isinstance(value, dict):
        return {f"{where}.{key}" for key in value}.union(
            *(key_paths(of, f"{where}.{key}") for key, of in value.items())
        )
    if isinstance(value, list):
        return set().union(*(key_paths(each, f"{where}[]") for each in value))
    return set()

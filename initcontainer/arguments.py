"""The command line of ``istio-init``, in the habits of pflag, which upstream's users have.

    -p15001   -p 15001   -p=15001   --envoy-port 15001   --envoy-port=15001
    -n   --dry-run   --dry-run=false        a switch takes a value after ``=`` only
    -np 15001                               short switches may be grouped; the last may take a value
    --                                      nothing after it is an option

The last of several is what counts. Pure: what is wrong comes as an UsageError.
"""

from __future__ import annotations

from capture.errors import EXIT_USAGE, CaptureError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from capture.settings.options import Option

SUBCOMMAND = "istio-iptables"
"""The word with which pods are injected to call upstream's program."""
VERSION_SUBCOMMAND = "version"
"""The word beside it, of the program that holds upstream's (pilot-agent)."""


class UsageError(CaptureError):
    """A command line that says something unknown, or says it in the wrong way."""

    exit_code = EXIT_USAGE

    def __init__(self, message: str) -> None:
        super().__init__(message, "See `istio-init --help`.")


class HelpWanted(Exception):  # noqa: N818  # no error: somebody wants to know
    """The command line asks what there is to say."""


class VersionWanted(Exception):  # noqa: N818  # no error either
    """The command line asks which version this is."""


class Words:
    """The words of a command line that are still to be read."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)

    def __iter__(self) -> Iterator[str]:
        while self._words:
            yield self._words.pop(0)

    def value_of(self, flag: str) -> str:
        """Take the next word, whatever it looks like, as the value of a flag."""
        if not self._words:
            raise UsageError(f"{flag} needs a value")
        return self._words.pop(0)


def parse(arguments: Sequence[str], options: Iterable[Option[Any]]) -> dict[Option[Any], str]:
    """Return the text that each flag was given; UsageError for what is no flag of ours.

    Raises HelpWanted or VersionWanted where that is asked for.
    """
    by_long = {option.flag: option for option in options if option.flag}
    by_short = {option.short: option for option in by_long.values() if option.short}
    explicit: dict[Option[Any], str] = {}
    if arguments[:1] == [VERSION_SUBCOMMAND]:
        raise VersionWanted
    words = Words(arguments[1:] if arguments[:1] == [SUBCOMMAND] else arguments)
    for word in words:
        if word.startswith("--") and len(word) > 2:
            _long(word, words, by_long, explicit)
        elif word.startswith("-") and len(word) > 1 and word != "--":
            _short(word, words, by_short, explicit)
        else:
            rest = [*words] if word == "--" else [word]
            if rest:
                raise UsageError(f"unexpected argument {rest[0]!r}")
    return explicit


def _long(word: str, words: Words, by_long: dict[str, Option[Any]], explicit: dict[Option[Any], str]) -> None:
    name, equals, value = word[2:].partition("=")
    if name == "help":
        raise HelpWanted
    if name == "version":
        raise VersionWanted
    option = by_long.get(name)
    if option is None:
        raise UsageError(f"unknown flag --{name}")
    if not equals:
        value = "true" if option.is_switch else words.value_of(f"--{name}")
    explicit[option] = value


def _short(word: str, words: Words, by_short: dict[str, Option[Any]], explicit: dict[Option[Any], str]) -> None:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        option = by_short.get(letter)
        if letter == "h" and option is None:
            raise HelpWanted
        if option is None:
            raise UsageError(f"unknown flag -{letter}" + (f" in {word}" if len(word) > 2 else ""))
        if option.is_switch and not letters.startswith("="):
            explicit[option] = "true"
            continue
        explicit[option] = letters.removeprefix("=") if letters else words.value_of(f"-{letter}")
        return

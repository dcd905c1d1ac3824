"""The command line of ``istio-init``, in the habits of pflag, which upstream's users have.

    -p15001   -p 15001   -p=15001   --envoy-port 15001   --envoy-port=15001
    -n   --dry-run   --dry-run=false        a switch takes a value after ``=`` only
    -np 15001                               short switches may be grouped; the last may take a value
    --                                      nothing after it is an option

Of a flag that is given several times the last one counts. Pure; raises UsageError.
"""

from __future__ import annotations

from capture.errors import EXIT_USAGE, CaptureError
from capture.settings.options import CLEANUP_ONLY, LOG_AS_JSON, LOG_OUTPUT_LEVEL, Option
from capture.settings.parsers import FALSE, TRUE
from initcontainer.upstream_flags import IGNORED_FLAGS, PERSISTENT_FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

SUBCOMMAND = "istio-iptables"
"""The word with which pods are injected to call upstream's program."""
CLEAN_SUBCOMMAND = "istio-clean-iptables"
"""The word of Istio 1.5 to 1.24 for removing the rules."""
VERSION_SUBCOMMAND = "version"
"""The word for the version, of the program that holds upstream's (pilot-agent)."""


FLAGS_OF_EVERY_COMMAND = (*PERSISTENT_FLAGS, LOG_OUTPUT_LEVEL.flag, LOG_AS_JSON.flag)


class UsageError(CaptureError):
    """A command line with an unknown flag or word, or a flag without its value."""

    exit_code = EXIT_USAGE

    def __init__(self, message: str) -> None:
        super().__init__(message, "See `istio-init --help-all`.")


class HelpRequested(Exception):  # noqa: N818  # no error: a question
    """The command line requests the list of options."""


class VersionRequested(Exception):  # noqa: N818  # no error either
    """The command line requests the version."""


class CommandLine:
    """The text of each flag on a command line, and the warnings about it, as far as it was read."""

    def __init__(self, options: Iterable[Option[Any]]) -> None:
        self.flags: dict[Option[Any], str] = {}
        self.warnings: list[str] = []
        self._by_long = {option.flag: option for option in (*options, *IGNORED_FLAGS) if option.flag}
        self._by_short = {option.short: option for option in self._by_long.values() if option.short}
        self._words: Iterator[str] = iter(())
        self._may_be_command = True
        """The next word may be that of the command: only flags of every command of pilot-agent may come before it."""

    def read(self, arguments: Iterable[str]) -> None:
        """Take in the arguments. Raises UsageError for a flag that neither we nor upstream have.

        Raises HelpRequested or VersionRequested where that is requested.
        """
        self._words, before = iter(arguments), ""
        for word in self._words:
            if word.startswith("--") and len(word) > 2:
                self._read_long_flag(word)
            elif word.startswith("-") and len(word) > 1 and word != "--":
                self._read_short_flags(word)
            elif self._may_be_command and word in (SUBCOMMAND, CLEAN_SUBCOMMAND, VERSION_SUBCOMMAND):
                self._read_command(word)
            else:
                rest = [*self._words] if word == "--" else [word]
                if rest:
                    raise UsageError(self._misplaced_text(rest[0], before))
            before = word

    def _misplaced_text(self, word: str, before: str) -> str:
        option = self._by_long.get(before.removeprefix("--")) or self._by_short.get(before.removeprefix("-"))
        if option and option.is_switch and word in (*TRUE, *FALSE):
            return f"{before} takes a value after = only: {before}={word}"
        return f"unexpected argument {word!r}: expected flags only"

    def _read_command(self, word: str) -> None:
        self._may_be_command = False
        if word == VERSION_SUBCOMMAND:
            raise VersionRequested
        if word == CLEAN_SUBCOMMAND:
            self.flags[CLEANUP_ONLY] = "true"
            self.warnings.append(f"{word} is a word of Istio before 1.25, and means --cleanup-only")

    def _read_long_flag(self, word: str) -> None:
        name, equals, value = word[2:].partition("=")
        if name in ("help", "help-all"):
            raise HelpRequested(name)
        if name == "version":
            raise VersionRequested
        self._may_be_command &= name in FLAGS_OF_EVERY_COMMAND
        option = self._by_long.get(name)
        if option is None:
            from capture.settings.keywords import closest_flag  # only where something is wrong

            with_effect = [flag for flag, option in self._by_long.items() if option not in IGNORED_FLAGS]
            similar = closest_flag(name, with_effect)
            raise UsageError(f"unknown flag --{name}" + (f"; did you mean --{similar}?" if similar else ""))
        if not equals:
            value = "true" if option.is_switch else self._next_value(f"--{name}", option)
        self._take(f"--{name}", option, value)

    def _next_value(self, flag: str, option: Option[Any]) -> str:
        """Return the next word, in any form, as the value of a flag; UsageError without one."""
        value = next(self._words, None)
        if value is None:
            raise UsageError(f"{flag}: missing value: expected {option.expected}")
        return value

    def _take(self, flag: str, option: Option[Any], value: str) -> None:
        if option not in IGNORED_FLAGS:
            self.flags[option] = value
        elif IGNORED_FLAGS[option]:
            self.warnings.append(f"{flag} has no effect: {IGNORED_FLAGS[option]}")

    def _read_short_flags(self, word: str) -> None:
        self._may_be_command = False
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            option = self._by_short.get(letter)
            if letter == "h" and option is None:
                raise HelpRequested
            if option is None:
                raise UsageError(f"unknown flag -{letter}" + (f" in {word}" if len(word) > 2 else ""))
            value = "true"
            if letters.startswith("=") or not option.is_switch:
                value, letters = letters.removeprefix("=") if letters else self._next_value(f"-{letter}", option), ""
            self._take(f"-{letter}", option, value)


def parse_arguments(arguments: Iterable[str], options: Iterable[Option[Any]]) -> CommandLine:
    """Return the command line with these arguments, all read.

    Raises UsageError, HelpRequested or VersionRequested.
    """
    command_line = CommandLine(options)
    command_line.read(arguments)
    return command_line

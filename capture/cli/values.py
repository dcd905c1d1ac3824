"""Kinds of values on the command line. For a value of another kind the error is as that of every option."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from capture.errors import ConfigurationError


class Kind(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on, which is not required
    """A kind of values: how a text becomes one, and what is expected where ``parse`` raises ValueError."""

    name = "text"

    def __init__(self, parse: Callable[[str], Any], expected: str, words: Sequence[str] = ()) -> None:
        self.expected = expected
        self._parse = parse
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(value)
        except ValueError:
            raise ConfigurationError(name_of(param), str(value), "command line", self.expected) from None

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str | None:
        return f"[{'|'.join(self.words)}]" if self.words else None

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return beginning(self.words, incomplete)


def name_of(param: click.Parameter | None) -> str:
    """Return how an error names a flag or an argument."""
    if isinstance(param, click.Option):
        return max(param.opts, key=len)
    return param.human_readable_name.strip("[]") if param else ""


def beginning(values: Sequence[str], incomplete: str) -> list[CompletionItem]:
    """Return what a shell offers: those that begin with what is typed already."""
    return [CompletionItem(value) for value in values if value.startswith(incomplete)]


def checked(check: Callable[[str], object], expected: str) -> Kind:
    """Return the kind of texts that pass a check, which raises ValueError or returns False for others."""

    def parse(text: str) -> str:
        if check(text) is False:
            raise ValueError
        return text

    return Kind(parse, expected)


def one_of(*words: str, spelled: Callable[[str], str] = str) -> Kind:
    """Return the kind of these words; ``spelled`` returns a text as the words are spelled."""

    def parse(text: str) -> str:
        if spelled(text) not in words:
            raise ValueError
        return spelled(text)

    return Kind(parse, f"{', '.join(words[:-1])} or {words[-1]}", words)


def number(lowest: float, highest: float = sys.maxsize, kind: Callable[[str], float] = int) -> Kind:
    """Return the kind of numbers in a range."""

    def parse(text: str) -> float:
        if not lowest <= kind(text) <= highest:
            raise ValueError
        return kind(text)

    name = "a whole number" if kind is int else "a number"
    return Kind(parse, f"{name} from {lowest} {'on' if highest == sys.maxsize else f'to {highest}'}")

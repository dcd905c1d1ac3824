"""Types of parameters on the command line. The error for a wrong value is as that of every option."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from capture.errors import ConfigurationError


class ParameterType(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on, which is not required
    """How a text becomes a value, and what is expected of it.

    ``parse`` makes the value of a text. A text is refused if that raises ValueError, or if ``accepts`` raises it of
    the value, or returns what is false.
    """

    name = "text"

    def __init__(
        self,
        parse: Callable[[str], Any],
        expected: str,
        accepts: Callable[[Any], object] = lambda _: True,
        words: Sequence[str] = (),
    ) -> None:
        self.expected = expected
        self.words = words
        self._parse = parse
        self._accepts = accepts

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            parsed = self._parse(value)
            if self._accepts(parsed):
                return parsed
        except ValueError:
            pass
        raise ConfigurationError(name_of(param), str(value), _origin(param, ctx), self.expected)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str | None:
        return f"[{'|'.join(self.words)}]" if self.words else None

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return completions(self.words, incomplete)


def name_of(param: click.Parameter | None) -> str:
    """Return how an error names a flag or an argument."""
    if isinstance(param, click.Option):
        return max(param.opts, key=len)
    return param.human_readable_name.strip("[]") if param else ""


def _origin(param: click.Parameter | None, ctx: click.Context | None) -> str:
    if param is None or ctx is None or ctx.get_parameter_source(param.name or "") != ParameterSource.ENVIRONMENT:
        return "command line"
    return f"environment {param.envvar}"


def completions(values: Sequence[str], incomplete: str) -> list[CompletionItem]:
    """Return what a shell offers: those that begin with what is typed already."""
    return [CompletionItem(value) for value in values if value.startswith(incomplete)]


def word_type(*words: str, spelled: Callable[[str], str] = str) -> ParameterType:
    """Return the type of these words; ``spelled`` returns a text as the words are spelled."""
    return ParameterType(spelled, f"{', '.join(words[:-1])} or {words[-1]}", words.__contains__, words)


def number_type(lowest: float, highest: float = sys.maxsize, kind: type[int | float] = int) -> ParameterType:
    """Return the type of numbers in a range."""
    bounds = f"of at least {lowest}" if highest == sys.maxsize else f"from {lowest} to {highest}"
    name = "a whole number" if kind is int else "a number"

    def parse(text: str | float) -> float:
        digits = str(text).replace(".", "", 1)
        if digits.isdecimal() and digits.isascii():  # Python's numbers may have blanks and _, too
            return kind(text)
        raise ValueError(text)

    return ParameterType(parse, f"{name} {bounds}", lambda value: lowest <= value <= highest)

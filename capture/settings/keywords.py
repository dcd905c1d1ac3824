"""Settings from the values of Python, one keyword for each option: what the library's users call."""

from __future__ import annotations

from capture.settings import options as table
from capture.settings.options import Option
from capture.settings.settings import Given, Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Plain = str | int | bool | Iterable[str | int] | None

OPTIONS_BY_NAME: dict[str, Option[Any]] = {
    name.lower(): value for name, value in vars(table).items() if isinstance(value, Option)
}
"""The options by the names that they have in ``capture.settings.options``, in lower case."""


def make_settings(**options: Plain) -> Settings:
    """Return settings in which the named options say what is given; the others have their defaults.

    Names are those of docs/options.md (``proxy_port``, ``excluded_outbound_networks``). A value is the text that a
    flag would be given, or a number, a truth value, or several of them for a list; an empty list is "none", and
    None is as good as leaving the option out. Every value is looked at here.

    Raises TypeError for a name that is no option, and ConfigurationError for a value that cannot be used.
    """
    explicit = {}
    for name, value in options.items():
        option = OPTIONS_BY_NAME.get(name)
        if option is None:
            raise TypeError(f"make_settings() has no option {name!r}{_similar(name)}")
        if value is not None:
            explicit[option] = Given(_text(value), f"the argument {name}")
    return Settings(explicit).checked()


def _similar(name: str) -> str:
    import difflib  # only where something is wrong

    similar = difflib.get_close_matches(name, OPTIONS_BY_NAME, n=1)
    return f"; is {similar[0]!r} meant?" if similar else ""


def _text(value: str | int | Iterable[str | int]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    return ",".join(map(str, value))

"""Completion for shells: the words that an option takes, and the network namespaces of this machine."""

from __future__ import annotations

import os
import re

from click.shell_completion import CompletionItem

from capture.cli.options import NAMED_NAMESPACES
from capture.errors import CaptureError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import click

    from capture.settings.options import Option


def values_of(option: Option[Any]) -> list[str]:
    """Return the words that an option takes; none where it takes numbers, names or lists.

    They are in the text of what the option expects, such as "auto, iptables or nftables".
    """
    if option.is_switch or _is_a_word_of(option, "no-such-word"):
        return []
    words = dict.fromkeys(re.findall(r"\w[\w.-]*", option.expected))
    return [word for word in words if _is_a_word_of(option, word)]


def _is_a_word_of(option: Option[Any], word: str) -> bool:
    try:
        return isinstance(option.parse(word), str)
    except (CaptureError, ValueError):
        return False


def beginning(values: list[str], incomplete: str) -> list[CompletionItem]:
    """Return those that begin with what is typed already."""
    return [CompletionItem(value) for value in values if value.startswith(incomplete)]


def namespaces(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the paths of the network namespaces that have a name."""
    try:
        names = sorted(os.listdir(NAMED_NAMESPACES))
    except OSError:
        names = []
    return beginning([f"{NAMED_NAMESPACES}/{name}" for name in names], incomplete)

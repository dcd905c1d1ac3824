"""How the option table reads in a help text and in the documentation; pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from capture.settings.options import Option


def flags_text(setting: Option[Any]) -> str:
    """Return how an option is given: ``-p, --envoy-port PORT``, or by which variable where it has no flag."""
    if not setting.flag:
        return f"{setting.environment[0]}={setting.metavar}"
    short = f"-{setting.short}, " if setting.short else ""
    value = "" if setting.is_switch else f" {setting.metavar}"
    return f"{short}--{setting.flag}{value}"


def help_text(setting: Option[Any]) -> str:
    """Return what an option does, with its default and the variables that set it."""
    facts = []
    if setting.default and not setting.is_switch:
        facts.append(f"[default: {setting.default}]")
    if setting.flag:
        facts.append(f"[env: {', '.join(setting.variables)}]")
    return "  ".join((setting.help, *facts))


def by_topic(options: Iterable[Option[Any]]) -> dict[str, list[Option[Any]]]:
    """Return the options by topic, in the order of the table; those that only the environment sets come last."""
    topics: dict[str, list[Option[Any]]] = {}
    for option in sorted(options, key=lambda option: not option.flag):
        topics.setdefault(option.topic if option.flag else "In the environment only", []).append(option)
    return topics

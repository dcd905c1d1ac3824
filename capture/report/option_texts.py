"""How the option table reads in a help text and in the documentation; pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
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
        topics.setdefault(option.topic if option.flag else "in the environment only", []).append(option)
    return topics


def heading(topic: str) -> str:
    """Return a topic as a heading."""
    return topic[:1].upper() + topic[1:]


INTRODUCTION = """\
# Options

Written by `scripts/docs_pages.py` from the option table in `capture/settings/options.py`; a test compares the two.

`istio-init` takes all of them. `capture apply`, `verify`, `render`, `trace` and `explain` take those that decide on the
rules and on the backend. The CNI plugin takes them from a pod's annotations and from its own configuration.
Programs give them to `make_settings` ([library.md](library.md)).

A flag beats the environment, and the environment beats the default. An explicit empty value counts: it means "none",
and where an option has to have a value, its default. A switch takes its value after `=` only (`--dual-stack=false`).
Every value is looked at before anything is done; what cannot be used is an error (exit code 2). Only a truth value in
the environment that cannot be read is ignored, with a warning: `ISTIO_META_DNS_CAPTURE=yes` says nothing to Istio's
agent either. Of several variables of one option the last one that can be read counts.
"""


def as_markdown(names: Mapping[Option[Any], str]) -> str:
    """Return the page of documentation about all options; ``names`` are the ones in Python."""
    lines = [INTRODUCTION]
    for topic, options in by_topic(names).items():
        lines.append(f"\n## {heading(topic)}\n")
        lines += [_option_as_markdown(option, names[option]) for option in options]
    return "".join(lines)


def _option_as_markdown(option: Option[Any], name: str) -> str:
    flags = [f"`-{option.short}`"] if option.short else []
    value = "" if option.is_switch else f" {option.metavar}"
    flags.append(f"`--{option.flag}{value}`" if option.flag else f"`{option.environment[0]}`")
    facts = [f"- Takes: {_without_stars(option.expected)}"]
    if option.default:
        facts.append(f"- Default: `{option.default}`")
    facts.append(f"- Environment: {_listed(option.variables)}")
    if option.annotations:
        facts.append(f"- Annotation of a pod: {_listed(option.annotations)}")
    facts.append(f"- In Python: `{name}`")
    return "\n".join((f"\n### {', '.join(flags)}\n", f"{_without_stars(option.help)}\n", *facts, ""))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _without_stars(text: str) -> str:
    """Return text in which a quoted star is code: markdown would take two of them for emphasis."""
    return text.replace("'*'", "`*`")

"""``capture diff``."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

import click

from capture.analysis.base_chains import Situation
from capture.analysis.effects import Comparison, Effect
from capture.analysis.judgement import family_ruleset
from capture.cli.group import usage_text
from capture.cli.input import STDIN, read_input
from capture.cli.options import CaptureCommand, capture_options, command, flags_of, format_option
from capture.cli.parameter_types import ParameterType
from capture.errors import EXIT_DONE, EXIT_DRIFT, EXIT_UNKNOWN, ConfigurationError
from capture.model.addresses import FAMILIES, FAMILY_NAMES
from capture.model.ruleset import Ruleset
from capture.model.text import plural
from capture.report.listings import ruleset_of_dump
from capture.report.output import VerdictLine, print_json, warn
from capture.report.packet_text import effect_as_plain, fate_text, packet_text
from capture.report.terminal import print_lines
from capture.rules import build_ruleset
from capture.settings.config import resolve
from capture.settings.settings import Settings, with_flags
from capture.system.pod_host import AnyPod

DUMP_FILE = "a file written by `capture dump --format json`"
OPTIONS_OR_DUMP = ParameterType(str, f"options of the capture in quotes, or {DUMP_FILE}")


@command(
    """
    capture diff '-x 10.96.0.0/12' '-x 10.96.0.0/12 -o 5432'
    capture diff before.json after.json
    capture diff '--profile classic' '--profile current' --format json
    """,
    click.Argument(["first"], type=OPTIONS_OR_DUMP, metavar="A"),
    click.Argument(["second"], type=OPTIONS_OR_DUMP, metavar="B"),
    format_option("table", "json"),
    context_settings={"ignore_unknown_options": True},
)
def diff(first: str, second: str, form: str) -> int:
    """Print which connections two captures treat differently; exit code 4 if there are any, 5 if none is certain.

    A and B are options of the capture in one argument, or files that `capture dump --format json` wrote; - is standard
    input.
    """
    captures = [_ruleset_of(text) for text in (first, second)]
    effects: list[Effect] = []
    for family in FAMILIES:
        comparison = Comparison(family, *(Situation(family_ruleset(each, family)) for each in captures))
        effects += sorted(comparison.effects(), key=lambda each: each.weight)
    if form == "json":
        plain = [{"family": effect.family, **(effect_as_plain(effect) or {})} for effect in effects]
        print_json({"equal": not effects, "differences": plain})
    elif not effects:
        print_lines([VerdictLine("equal: both captures treat every connection alike")])
    else:
        print_lines([f"{plural(len(effects), 'difference')}:"])
        print_lines(f"  {line}" for each in effects for line in _effect_lines(each))
    is_certain = not effects or any(each.is_certain for each in effects)
    return EXIT_DRIFT if effects and is_certain else EXIT_DONE if is_certain else EXIT_UNKNOWN


def _ruleset_of(text: str) -> Ruleset:
    if text == STDIN or os.path.exists(text) or (text.strip() and not text.lstrip().startswith("-")):
        return _ruleset_in_file(text)
    try:
        context = CaptureCommand("options", params=capture_options()).make_context("options", shlex.split(text))
        settings = with_flags(Settings({}), flags_of(context)).checked()
    except click.NoSuchOption as error:
        raise click.UsageError(
            f"capture diff has no option {error.option_name}: it compares two sets of options of the capture, or two"
            " files of `capture dump --format json`",
            click.get_current_context(),
        ) from None
    except (ValueError, click.UsageError, ConfigurationError) as error:
        problem = usage_text(error) if isinstance(error, click.UsageError) else str(error)  # shlex: a quote is open
        expected = f"{OPTIONS_OR_DUMP.expected}; {problem[:1].lower()}{problem[1:]}"
        raise ConfigurationError("capture diff", text, "command line", expected) from None
    config, warnings = resolve(settings, AnyPod())
    warn(warnings)
    return build_ruleset(config)


def _ruleset_in_file(path: str) -> Ruleset:
    import json

    text = read_input(path)
    try:
        return ruleset_of_dump(json.loads(text))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigurationError("capture diff", path, "command line", DUMP_FILE) from None


def _effect_lines(effect: Effect) -> Iterator[str]:
    after = fate_text(effect.after.fate) if effect.is_certain else "cannot be judged"
    change = f"{fate_text(effect.before.fate)} -> {after}"
    for region in effect.regions:
        yield f"{FAMILY_NAMES[effect.family]} {effect.direction}: {region}: {change}"
    yield f"  witness: {packet_text(effect.packet)}"

"""``capture why``."""

from __future__ import annotations

import click

from capture.cli.options import CaptureCommand, capture_options, explicit, flags, format_option, namespace_options
from capture.cli.packets import packet_from, packet_options
from capture.errors import EXIT_DONE, EXIT_DRIFT, EXIT_UNKNOWN
from capture.operations import diagnosis
from capture.report.output import SCHEMA, say_json
from capture.report.packet_words import packet_in_words
from capture.report.terminal import tell
from capture.report.traced import as_plain as trace_as_plain
from capture.report.traced import path_in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from capture.analysis.causes import Cause
    from capture.operations.diagnosis import Diagnosis

EXAMPLES = """
capture why tcp 203.0.113.9:80 --uid 1000            # a connection that the pod's application opens
capture why tcp 10.0.0.5:8080 --in eth0 --pid 4711   # one that comes in
capture why --netns /run/netns/pod                   # everything that is wrong with this pod
capture why --format json | jq -r '.causes[].kind'
"""


def _parameters() -> list[click.Parameter]:
    """Return the packet's options, with a protocol and a destination that may be left out, and the rest."""
    parameters = packet_options()
    for parameter in parameters:
        if isinstance(parameter, click.Argument):
            parameter.required = False
    return [*parameters, *capture_options(), *namespace_options(), format_option("table", "json")]


@click.command(cls=CaptureCommand, params=_parameters(), examples=EXAMPLES)
@click.pass_context
def why(ctx: click.Context, /, namespace: str | None, form: str, **options: Any) -> int:
    """Say whether a connection reaches a proxy that listens, and if not, why and what to do.

    Without a connection: everything that is wrong with this pod. Exit code 0 if the connection is captured and the
    proxy listens, 4 if a cause was found, 5 if it cannot be told.
    """
    is_partial = (options["protocol"] is None) != (options["destination"] is None)
    if is_partial:
        raise click.UsageError("name a protocol and a destination, such as tcp 203.0.113.9:80, or neither", ctx)
    packet = packet_from(options, ctx) if options["protocol"] else None
    settings = explicit(ctx) if flags(ctx) else None
    found = diagnosis.why(packet, settings, namespace)
    if form == "json":
        say_json(as_plain(found))
    else:
        tell(in_words(found))
    if found.causes:
        return EXIT_DRIFT
    return EXIT_DONE if found.is_certain else EXIT_UNKNOWN


def as_plain(found: Diagnosis) -> dict[str, object]:
    """Return a diagnosis as plain values for JSON."""
    return {
        "connection": packet_in_words(found.packet) if found.packet else None,
        "verdict": found.verdict,
        "causes": [cause_as_plain(cause) for cause in found.causes],
        "notes": [cause_as_plain(note) for note in found.notes],
        "trace": {"schema": SCHEMA, **trace_as_plain(found.trace)} if found.trace else None,
    }


def cause_as_plain(cause: Cause) -> dict[str, str]:
    """Return a cause as plain values for JSON."""
    return {"kind": cause.kind, "says": cause.says, "remedy": cause.remedy, "where": cause.where}


def in_words(found: Diagnosis) -> Iterator[str]:
    """Yield the lines for a person: the verdict, the way of the packet, then each cause and its remedy."""
    yield f"{found.verdict}: {_subject(found)}"
    if found.trace is not None:
        yield from path_in_words(found.trace)
    yield from causes_in_words(found.causes)
    for note in found.notes:
        yield f"note: {note.says}"


def causes_in_words(causes: Iterable[Cause]) -> Iterator[str]:
    """Yield two lines for each cause: what is the case, and what to do."""
    for cause in causes:
        where = f" ({cause.where})" if cause.where else ""
        yield f"cause {cause.kind}: {cause.says}{where}"
        yield f"  {cause.remedy}"


def _subject(found: Diagnosis) -> str:
    if found.packet is not None:
        return packet_in_words(found.packet)
    return "nothing is wrong with this pod" if not found.causes else "this pod"

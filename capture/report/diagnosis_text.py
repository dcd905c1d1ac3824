"""What ``why`` found, in words and as JSON."""

from __future__ import annotations

from capture.model.location import Location
from capture.model.text import JSON_SCHEMA_NAME
from capture.report.output import VerdictLine
from capture.report.packet_text import packet_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from capture.model.location import Cause
    from capture.operations.diagnosis import Diagnosis

SUBJECTS = {
    "captured": "nothing is wrong with {}",
    "broken": "the capture of {}",
    "cannot be told": "whether anything is wrong with {}",
}
"""What a verdict without a connection is about."""


def diagnosis_as_plain(diagnosis: Diagnosis) -> dict[str, object]:
    """Return a diagnosis as plain values for JSON."""
    from capture.report.trace_text import trace_as_plain  # which verify does without

    return {
        "connection": packet_text(diagnosis.packet) if diagnosis.packet else None,
        "verdict": diagnosis.verdict,
        "causes": [cause_as_plain(cause) for cause in diagnosis.causes],
        "notes": [cause_as_plain(note) for note in diagnosis.notes],
        "trace": {"schema": JSON_SCHEMA_NAME, **trace_as_plain(diagnosis.trace)} if diagnosis.trace else None,
    }


def cause_as_plain(cause: Cause) -> dict[str, str]:
    """Return a cause as plain values for JSON."""
    return {"kind": cause.kind, "says": cause.message, "remedy": cause.remedy, "where": str(cause.where)}


def diagnosis_lines(diagnosis: Diagnosis, subject: str = "this pod") -> Iterator[str]:
    """Yield the lines for a person: the verdict, the way of the packet, then each cause and its remedy."""
    from capture.report.trace_text import doubt_about, path_lines  # which verify does without

    yield VerdictLine(f"{diagnosis.verdict}: {_subject_text(diagnosis, subject)}")
    if diagnosis.trace is not None:
        yield from path_lines(diagnosis.trace)
        if not diagnosis.trace.is_certain:
            yield doubt_about(diagnosis.trace)
    yield from cause_lines(diagnosis.causes)
    for note in diagnosis.notes:
        yield f"note: {message_with_location(note)}"
        yield f"  {note.remedy}"


def _subject_text(diagnosis: Diagnosis, subject: str) -> str:
    if diagnosis.packet is not None:
        return packet_text(diagnosis.packet)
    if diagnosis.verdict == "captured" and diagnosis.uncaptured:
        return f"{subject}; by its settings, {' and '.join(diagnosis.uncaptured)} is captured"
    return SUBJECTS.get(diagnosis.verdict, "{}").format(subject)


def cause_lines(causes: Iterable[Cause]) -> Iterator[str]:
    """Yield two lines for each cause: the fault, and what to do."""
    for cause in causes:
        yield VerdictLine(f"cause {cause.kind}: {message_with_location(cause)}", "cause")
        yield f"  {cause.remedy}"


def message_with_location(cause: Cause) -> str:
    """Return the fault; with the location of a rule, which the words lack."""
    return f"{cause.message} ({cause.where})" if isinstance(cause.where, Location) else cause.message

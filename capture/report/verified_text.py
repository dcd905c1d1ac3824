"""The conclusion of ``verify``, in words and as JSON."""

from __future__ import annotations

from capture.model.conventions import NOTHING_APPLIED
from capture.model.text import plural
from capture.report.difference_text import difference_lines, differences_as_plain, doubt_lines, note_lines
from capture.report.output import VerdictLine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from capture.model.location import Cause
    from capture.model.ruleset import Ruleset
    from capture.operations import Verified


def verified_lines(verified: Verified) -> Iterator[str]:
    """Yield the conclusion, with each difference and what cannot be judged; then notes."""
    yield from conclusion_lines(verified)
    if verified.is_nothing_applied:
        return
    if not verified.has_reference and verified.live.tables:
        yield _inferred_text(verified.desired)
    for sentence in note_lines(verified):
        yield f"note: {sentence}"


def _inferred_text(own: Ruleset) -> str:
    from shlex import join  # where no one waits for a pod

    from capture.operations.inference import count_misfits, inferred_flags

    flags = join(inferred_flags(own))
    if flags and (count := count_misfits(own)):
        return f"these settings fit the live rules best, with {plural(count, 'difference')}: {flags}"
    return f"the live rules amount to: {flags or 'no capture'}"


def conclusion_lines(verified: Verified) -> Iterator[str]:
    """Yield whether the live rules are as desired, then each difference, and what cannot be judged."""
    yield VerdictLine(_conclusion_text(verified))
    if verified.is_nothing_applied:
        return
    yield from (f"  {sentence}" for sentence in difference_lines(verified))
    if not verified.has_reference and verified.conclusion != "no reference":
        yield VerdictLine(f"not judged: {_no_reference(verified)}")
    yield from (VerdictLine(f"not judged: {sentence}") for sentence in doubt_lines(verified))


def _conclusion_text(verified: Verified) -> str:
    conclusion, compared_with = verified.conclusion, reference_text(verified)
    if conclusion == "nothing applied":
        return NOTHING_APPLIED
    if conclusion == "in sync":
        part = f", {verified.part_text} alone" if verified.part_text else ""
        return f"in sync{part}: live rules match the {compared_with}"
    if conclusion == "cannot be judged":
        return f"not judged in full: our rules match the {compared_with}; foreign ones may divert traffic"
    if conclusion == "no reference":
        return f"no reference: {_no_reference(verified)}"
    if not verified.has_reference:
        return f"drift: {plural(len(verified.drift), 'fault')}, by the live rules alone"
    return f"drift: {plural(len(verified.drift), 'difference')} from the {compared_with}"


def _no_reference(verified: Verified) -> str:
    return f"{verified.record_fault or 'nothing is recorded here'}; give the options of the pod"


def reference_text(verified: Verified) -> str:
    """Return what the live rules were compared with."""
    if not verified.has_reference:
        return "live rules of the capture"
    return "applied configuration" if verified.from_record else "configuration of the options"


def verified_as_plain(verified: Verified, causes: Sequence[Cause]) -> dict[str, object]:
    """Return what verify found, for JSON."""
    from capture.operations.inference import count_misfits, inferred_flags
    from capture.report.diagnosis_text import cause_as_plain  # which words differences, too

    return {
        "as_asked": verified.holds,
        "certain": verified.is_certain,
        "compared_with": reference_text(verified),
        "differences": differences_as_plain(verified),
        "not_judged": [*([] if verified.has_reference else [_no_reference(verified)]), *doubt_lines(verified)],
        "notes": list(note_lines(verified)),
        "live_settings": None if verified.has_reference else inferred_flags(verified.desired),
        "live_settings_differences": None if verified.has_reference else count_misfits(verified.desired),
        "proxy": [cause_as_plain(cause) for cause in causes],
    }

"""What ``verify`` found, in the lines that a person reads."""

from __future__ import annotations

from capture.report.differences import NOTHING_APPLIED, doubts_in_words, in_words, notes_in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.operations import Verified


def verified_in_words(verified: Verified) -> Iterator[str]:
    """Yield the summary first, then each difference, what cannot be judged, and notes."""
    found = list(in_words(verified))
    compared_with = reference(verified)
    if found == [NOTHING_APPLIED]:
        yield NOTHING_APPLIED
    elif found:
        yield f"drift: {len(found)} difference{'s' if len(found) > 1 else ''} from the {compared_with}"
    elif verified.is_certain:
        yield f"in sync: live rules match the {compared_with}"
    elif verified.has_reference:
        yield f"cannot be judged: live rules match the {compared_with} as far as can be told"
    else:
        yield "consistent, but there is no reference: nothing says what the rules should be"
    if found == [NOTHING_APPLIED]:
        return
    yield from (f"  {sentence}" for sentence in found)
    for sentence in doubts_in_words(verified):
        yield f"not judged: {sentence}"
    if not verified.has_reference and verified.live.tables:
        from capture.operations.inference import inferred_flags

        yield f"the live rules amount to: {' '.join(inferred_flags(verified.desired)) or 'no capture'}"
    for sentence in notes_in_words(verified):
        yield f"note: {sentence}"


def reference(verified: Verified) -> str:
    """Return what the live rules were compared with."""
    if not verified.has_reference:
        return "live rules of the capture"
    return "applied configuration" if verified.from_record else "configuration that the options ask for"

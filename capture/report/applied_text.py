"""The result of a request to capture, in a line."""

from __future__ import annotations

from shlex import quote

from capture import operations
from capture.errors import CaptureError, NamespaceError, PrivilegeError
from capture.model.addresses import FAMILY_NAMES
from capture.model.conventions import APPLY_RECORDED
from capture.model.text import plural
from capture.report.output import print_on_stderr, warn
from capture.settings.config import resolve
from capture.settings.options import PROFILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.operations import Applied, Reference
    from capture.settings.config import CaptureConfig
    from capture.settings.settings import Settings


def start_line(settings: Settings, config: CaptureConfig) -> str:
    """Return the line with which every program starts: profile and families, and where both come from."""
    families = " and ".join(FAMILY_NAMES[family] for family in config.families)
    return f"profile {config.profile} ({settings.origin(PROFILE)}), families {families} ({config.families_because})"


def print_start_line(reference: Reference | None, form: str) -> None:
    """Print on stderr warnings about the settings and, for a person, the start line; nothing without a reference."""
    if reference is None:
        return
    warn(reference.warnings)
    if form != "json":
        print_on_stderr(start_line(reference.settings, reference.config))


def applied_as_plain(applied: Applied) -> dict[str, object]:
    """Return what ``apply`` did, for JSON."""
    choice, config = applied.choice, applied.config
    return {
        "changed": applied.changed,
        "rules": _count(applied),
        "backend": choice.backend,
        "variant": choice.variant or None,
        "driver": choice.driver,
        "profile": config.profile,
        "profile_from": applied.settings.origin(PROFILE),
        "families": list(config.families),
        "families_because": config.families_because,
        "warnings": list(applied.warnings),
        "remarks": list(applied.notes),
    }


def with_replaced_settings(applied: Applied) -> Applied:
    """Return what ``apply`` did, with a warning if defaults have replaced recorded settings."""
    lost = list(_lost_settings(applied))
    if not lost:
        return applied
    kept = f"{APPLY_RECORDED} would have kept them; to restore them, apply with these options"
    return applied.replace(warnings=(*applied.warnings, f"replaced by defaults: {', '.join(lost)}; {kept}"))


def _lost_settings(applied: Applied) -> Iterator[str]:
    """Yield the recorded settings that mattered, and are no more."""
    before = applied.replaced
    if before is None:
        return
    settings, answers = before.settings, before.answers
    config, _ = resolve(settings, answers)
    for option in settings.explicit:
        is_other = settings.text(option) != applied.settings.text(option)
        if is_other and resolve(settings.without(option), answers)[0] != config:
            yield f"{option.name} {quote(settings.text(option))}"
    if before.backend != applied.choice.backend:
        yield f"--backend {before.backend}"


def _count(applied: Applied) -> int:
    """Return how many rules there are, those of both families twice."""
    return sum(
        len([*chain.rules_for(family)])
        for table in applied.ruleset.tables
        for chain in table.chains
        for family in applied.ruleset.families
    )


def applied_text(applied: Applied) -> str:
    """Return in a line what ``apply`` did."""
    families = applied.ruleset.families
    choice = applied.choice
    variant = f" {choice.variant}" if choice.variant else ""
    return (
        f"{'programmed' if applied.changed else 'unchanged'}: {_count(applied)} rules for "
        f"{' and '.join(FAMILY_NAMES[family] for family in families)}, "
        f"backend {choice.backend}{variant}, driver {choice.driver}"
    )


def cut_by_cleaning(namespace: str | None) -> list[str]:
    """Return in at most one line what removing the rules does to connections."""
    try:
        count = operations.captured_connections(namespace)
    except (NamespaceError, PrivilegeError):
        return []  # the removal fails by it, too
    except CaptureError as error:
        return [f"connections that pass the proxy will be cut; their number is unknown: {error.message}"]
    return [f"{plural(count, 'connection')} through the proxy will be cut"] if count else []

"""The result of a request to capture, in a line."""

from __future__ import annotations

from capture.model.addresses import FAMILY_NAMES
from capture.model.conventions import APPLY_RECORDED
from capture.report.output import VerdictLine, print_on_stderr, warn
from capture.settings.config import resolve
from capture.settings.options import BACKEND, FORCE_IPTABLES_BINARY, NATIVE_NFTABLES, PROFILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.operations import Applied, Reference
    from capture.settings.config import CaptureConfig
    from capture.settings.settings import Settings


def start_line(settings: Settings, config: CaptureConfig) -> str:
    """Return the line with which every program starts: profile and families, and where both come from."""
    families = " and ".join(FAMILY_NAMES[family] for family in config.families)
    return f"profile {config.profile} ({settings.origin(PROFILE)}), families {families} ({config.families_decided_by})"


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
        "rules": _count_rules(applied),
        "backend": choice.backend,
        "variant": choice.variant or None,
        "driver": choice.driver,
        "profile": config.profile,
        "profile_from": applied.settings.origin(PROFILE),
        "families": list(config.families),
        "families_because": config.families_decided_by,
        "warnings": list(applied.warnings),
        "remarks": list(applied.notes),
    }


def replaced_by_defaults(applied: Applied) -> list[str]:
    """Return in at most one line which recorded settings mattered, and are defaults now."""
    from shlex import quote  # where a person applies

    before = applied.replaced
    if before is None:
        return []
    text, config = before.settings.text, resolve(before.settings, before.answers)[0]
    left_out = (option for option in before.settings.explicit if applied.settings.origin(option) == "default")
    other = [option for option in left_out if text(option) != applied.settings.text(option)]
    mattered = (option for option in other if resolve(before.settings.without(option), before.answers)[0] != config)
    lost = [f"{option.name}={quote(text(option))}" for option in mattered]
    named = {BACKEND, NATIVE_NFTABLES, FORCE_IPTABLES_BINARY}.intersection(applied.settings.explicit)
    if before.backend != applied.choice.backend and not named:
        lost.append(f"--backend={before.backend}")
    if not lost:
        return []
    options, restore = " ".join(lost), APPLY_RECORDED.strip("`")
    return [f"recorded options are replaced by their defaults: `{options}`. To restore them: `{restore} {options}`"]


def _count_rules(applied: Applied) -> int:
    """Return how many rules the kernel has: iptables stores a list as one rule for each entry."""
    from capture.backends.iptables.plan import as_written

    ruleset = as_written(applied.ruleset) if applied.choice.backend == "iptables" else applied.ruleset
    return sum(rule.family in (None, family) for rule in ruleset.rules for family in ruleset.families)


def applied_text(applied: Applied) -> VerdictLine:
    """Return in a line what ``apply`` did."""
    families = applied.ruleset.families
    return VerdictLine(
        f"{'applied' if applied.changed else 'unchanged'}: {_count_rules(applied)} rules for "
        f"{' and '.join(FAMILY_NAMES[family] for family in families)}, "
        f"backend {applied.choice.place_text}, driver {applied.choice.driver}"
    )

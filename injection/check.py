"""``capture inject --check``: what would be captured, by which carrier, under which level, and what is dangerous."""

from __future__ import annotations

from injection.plan import with_plan
from injection.security import level_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from injection.inject import WorkloadOutcome
    from injection.plan import InjectionPlan
    from injection.template import Template

BY_INIT = "by istio-init"
BY_PLUGIN = "by the CNI plugin"
MAX_SHOWN = 3


def report(origin: str, outcome: WorkloadOutcome, template: Template) -> dict[str, Any]:
    """Return the report about one workload of a file."""
    plan = outcome.plan
    line: dict[str, Any] = {
        "origin": f"{origin}, document {outcome.document}",
        "workload": str(outcome.workload),
        "injected": outcome.injected,
        "reason": outcome.reason,
        "warnings": list(outcome.warnings),
    }
    if plan is not None:
        pod = with_plan(outcome.workload.pod, plan, "")
        level, against = level_of(pod["spec"])
        carrier = BY_PLUGIN if template.uses_plugin else BY_INIT
        line |= {
            "captured": carrier if plan.settings.is_captured else "",
            "capture": _settings_as_plain(plan),
            "pod_security": level,
            "stricter_level_refused_for": against,
        }
    return line


def _settings_as_plain(plan: InjectionPlan) -> dict[str, str]:
    words = plan.settings.arguments()[1:]
    return dict(zip(words[::2], words[1::2], strict=False))


def check_text(line: dict[str, Any]) -> str:
    """Return the report as lines of text."""
    head = f"{line['origin']}: {line['workload']}: " if line.get("origin") else f"{line['workload']}: "
    if not line["injected"]:
        head += f"not injected: {line['reason']}" if "origin" in line else f"not captured: {line['reason']}"
    else:
        head += f"captured {line['captured']}" if line["captured"] else "not captured"
        if "pod_security" in line:
            head += f"; {_pod_security(line['pod_security'], line['stricter_level_refused_for'])}"
    return "\n".join([head, *(f"  warning: {warning}" for warning in line["warnings"])])


def _pod_security(level: str, against_stricter: Sequence[str]) -> str:
    if not against_stricter:
        return f"starts under Pod Security {level}"
    count = len(against_stricter) - MAX_SHOWN
    more = f", and {count} more" if count > 0 else ""
    return f"needs Pod Security {level}, because {'; '.join(against_stricter[:MAX_SHOWN])}{more}"

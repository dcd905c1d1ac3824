"""``capture inject --check``: what would be captured, by which carrier, under which level, and what is dangerous."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from capture.model.values import Value
from capture.report.output import VerdictLine
from injection.inject import WorkloadOutcome
from injection.plan import with_plan
from injection.security import level_of
from injection.template import Template

BY_INIT = "by istio-init"
BY_PLUGIN = "by the CNI plugin"
MAX_SHOWN_REASONS = 3


class Report(Value):
    """What becomes of one workload: of a file, or a pod that runs."""

    workload: str
    is_injected: bool
    reason: str
    warnings: tuple[str, ...]
    origin: str = ""
    """The document; "" for a pod that runs."""
    carrier: str = ""
    """Who writes the rules; "" where nothing is captured."""
    capture: dict[str, str] | None = None
    """The settings of what is injected; None where the pod runs or stays as it is."""
    level: str = ""
    """The strictest Pod Security under which it starts, with these settings."""
    against_stricter: tuple[str, ...] = ()

    def as_plain(self) -> dict[str, Any]:
        """Return the report for JSON."""
        plain: dict[str, Any] = {"origin": self.origin} if self.origin else {}
        plain |= {
            "workload": self.workload,
            "injected": self.is_injected,
            "captured": self.carrier,
            "reason": self.reason,
            "warnings": list(self.warnings),
        }
        if self.capture is not None:
            security = {"pod_security": self.level, "stricter_level_refused_for": list(self.against_stricter)}
            plain |= {"capture": self.capture} | security
        return plain

    @property
    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        head = f"{self.origin}: {self.workload}: " if self.origin else f"{self.workload}: "
        if not self.is_injected:
            head += f"not injected: {self.reason}" if self.origin else f"not captured: {self.reason}"
        else:
            head += f"captured {self.carrier}" if self.carrier else "not captured"
            if self.level:
                head += f"; {_pod_security(self.level, self.against_stricter)}"
        return [head, *(VerdictLine(f"  warning: {warning}") for warning in self.warnings)]


def report(origin: str, outcome: WorkloadOutcome, template: Template) -> Report:
    """Return the report about one workload of a file."""
    where, plan = f"{origin}, document {outcome.document}", outcome.plan
    base = Report(str(outcome.workload), outcome.injected, outcome.reason, outcome.warnings, where)
    if plan is None:
        return base
    level, against = level_of(with_plan(outcome.workload.pod, plan, "")["spec"])
    carrier = BY_PLUGIN if template.uses_plugin else BY_INIT
    words = plan.settings.arguments()[1:]
    capture = dict(zip(words[::2], words[1::2], strict=False))
    captured_by = carrier if plan.settings.is_captured else ""
    return base.replace(carrier=captured_by, capture=capture, level=level, against_stricter=tuple(against))


def _pod_security(level: str, against_stricter: Sequence[str]) -> str:
    if not against_stricter:
        return f"starts under Pod Security {level}"
    count = len(against_stricter) - MAX_SHOWN_REASONS
    more = f", and {count} more" if count > 0 else ""
    return f"needs Pod Security {level}, because {'; '.join(against_stricter[:MAX_SHOWN_REASONS])}{more}"

"""Why a namespace has no rules of the capture."""

from __future__ import annotations

from capture.analysis.cause_text import REAPPLY_OR_RECREATE, Cause, cause
from capture.state import attachments
from capture.state.netns import own_namespace
from capture.state.node import evidence_of_host

LEFT_ALONE_BY = {attachments.EXCLUDED_NAMESPACE: "namespace", attachments.NOT_INJECTED: "not injected"}
"""Cases of the cause by the kind of the plugin's decision."""


def no_rules_cause(*, is_machine: bool, is_recorded: bool) -> Cause:
    """Return why nothing is applied here: what the CNI plugin decided last, where that is known."""
    reason = cause("no-rules", "machine") if is_machine else _cause_in_pod()
    return reason.replace(remedy=REAPPLY_OR_RECREATE) if is_recorded and reason.kind == "no-rules" else reason


def _cause_in_pod() -> Cause:
    decided = attachments.decision_about(own_namespace())
    if decided is None:
        evidence = evidence_of_host()
        if evidence is None:
            return cause("no-rules")
        return cause("host-network", evidence=f": {evidence}" if evidence else "")
    time, reason = decided.time, decided.reason
    if decided.decision == attachments.LEFT_ALONE:
        return cause("left-alone", LEFT_ALONE_BY.get(decided.kind, ""), pod=decided.pod, time=time, reason=reason)
    return cause("no-rules", "refused", time=time, reason=reason) if reason else cause("no-rules")

"""What the proxy sends on, which must not come back to it, and rules in words."""

from __future__ import annotations

from capture.analysis.causes import Cause
from capture.backends.iptables.render import rule_text
from capture.model.addresses import IPV4
from capture.operations.tracing import trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.analysis.causes import Capture
    from capture.analysis.trace import Trace
    from capture.model.addresses import Family
    from capture.model.ruleset import Rule


def circle(live: Trace, capture: Capture) -> Iterator[Cause]:
    """Yield a cause if what the proxy sends on would come back to it: the rule that leaves it out has no effect."""
    if live.outcome != "proxy-outbound" or not capture.uids or not capture.gids:
        return
    uid, gid = capture.uids[0].first, capture.gids[0].first
    if trace(live.packet.replace(uid=uid, gid=gid)).outcome == "proxy-outbound":
        yield Cause(
            "rule-missing",
            f"what the proxy sends on (user {uid}) is captured again, and comes back to it for ever",
            "Run `capture apply` again, or recreate the pod; `capture verify` has the rule that is missing.",
        )


def rule_of(rule: Rule | None, family: Family = IPV4) -> str:
    """Return a rule in the words of iptables-save; of none, the policy."""
    if rule is None:
        return "the policy DROP"
    try:
        return rule_text(rule.replace(family=family, why=""))
    except ValueError as error:
        return str(error)

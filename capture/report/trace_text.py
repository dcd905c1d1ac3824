"""The way of a packet: in lines for a person, and as plain values for JSON."""

from __future__ import annotations

from capture.analysis.outcome import TO_PROXY
from capture.backends.iptables.render import shown_rule
from capture.model.addresses import Family, address_text
from capture.model.chain_names import is_own_chain
from capture.model.conventions import NOTHING_APPLIED, REJECT_REASON
from capture.model.ruleset import INPUT, PREROUTING, TABLES, Redirect
from capture.report.output import DECIDES_MARK, VerdictLine
from capture.report.packet_text import fate_text, packet_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.analysis.trace import Step, Trace

COMING_IN = (PREROUTING, INPUT)
RULES_NOT_JUDGED = "rules marked with ? cannot be judged here; they may decide otherwise"
ORDER_UNKNOWN = (
    "whether the chain of the rule marked with ? comes before ours is unknown: the packet may go another way"
)
OUTCOMES = {
    "direct": "bypasses the proxy",
    "proxy-outbound": "goes to the proxy, as an outbound connection, on port {port}",
    "proxy-inbound": "goes to the proxy, as an inbound connection, on port {port}",
    "dns": "goes to the agent's name server on port {port}",
    "redirected": "is redirected to port {port} by {rule_set}",
}


def trace_as_plain(traced: Trace, table: str | None = None) -> dict[str, object]:
    """Return a trace as plain values for JSON; of its path, the steps in one table or in all."""
    family = traced.packet.family
    return {
        "packet": packet_text(traced.packet),
        "applied": traced.is_applied,
        "outcome": traced.outcome,
        "port": traced.port,
        "address": address_text(traced.address.family, traced.address.first) if traced.address else None,
        "missing_routes": [command for each in traced.missing_routes for command in each.commands],
        "impediments": list(traced.impediments),
        "rule": _rule_text(traced.step, traced) if traced.step else None,
        "why": traced.step.rule.why if traced.step else None,
        "policy_rule": traced.reroute.words if traced.reroute else None,
        "policy": traced.location.short if traced.policy and traced.location else None,
        "transparent": traced.transparent,
        "certain": traced.is_certain,
        "may_be_spared": traced.may_be_spared,
        "path": [
            {
                "table": step.table,
                "chain": step.chain,
                "position": step.position,
                "rule": shown_rule(step.rule, family),
                "why": step.rule.why,
                "certain": step.is_certain,
            }
            for step in _shown_steps(traced, table)
        ],
    }


def trace_lines(traced: Trace, table: str | None = None) -> Iterator[str]:
    """Yield the lines for a person: the packet, the rules it met (in one table or in all), where it ends and why."""
    yield packet_text(traced.packet)
    yield from path_lines(traced, table)
    verdict = _verdict_line(traced)
    yield verdict if traced.is_order_known else VerdictLine(f"cannot be told: perhaps {verdict}")
    if traced.reroute is not None:
        consequence = "refuses it" if traced.outcome == "dropped" else f"lets it leave via {traced.interface}"
        yield f"by its mark it is routed again: the policy rule `{traced.reroute.words}` {consequence}"
    lost = (f"{route.consequence}; {route.message}" for route in traced.missing_routes)
    yield from (VerdictLine(f"but {impediment}", "but") for impediment in (*lost, *traced.impediments))
    if traced.outcome != "no-route":
        yield from _reason_lines(traced, table)
    if not traced.is_applied:
        yield VerdictLine(NOTHING_APPLIED)


def _reason_lines(traced: Trace, table: str | None) -> Iterator[str]:
    step = traced.step
    if step is not None:
        if step not in _shown_steps(traced, table):  # else it is marked
            yield f"because of {step.location.short}: {_rule_and_reason(step, traced.packet.family)[0]}"
    elif traced.policy is None and traced.path:
        yield "because no rule on its way decides, and each chain's policy is ACCEPT"
    elif traced.policy is None:
        yield "because no rule matches it"
    if not traced.is_certain and traced.outcome != "dropped":
        yield doubt_about(traced)


def doubt_about(traced: Trace) -> str:
    """Return what the mark ? means on the way of a packet."""
    return RULES_NOT_JUDGED if traced.is_order_known else ORDER_UNKNOWN


def _verdict_line(traced: Trace) -> VerdictLine:
    if traced.outcome == "no-route":
        from capture.analysis.pod_causes import refusal_cause  # verify words no traces

        where = address_text(traced.packet.family, traced.packet.destination.first)
        return VerdictLine(f"no route: {refusal_cause(traced.packet.family, where, traced.refusal).message}")
    if traced.translated is not None:
        where = fate_text(traced.fate.replace(address=traced.address))
        return VerdictLine(f"{where.replace('direct to', 'direct, to')}, which is not the proxy", traced.outcome)
    if traced.outcome == "dropped":
        unless = ", unless a rule marked ? accepts it, which cannot be judged" if traced.may_be_spared else ""
        return VerdictLine(f"dropped: {_drop_text(traced)}{unless}")
    is_second = traced.step is not None and is_own_chain(traced.step.chain)
    rule_set = "a second rule set" if is_second else "a foreign rule"
    transparent = ", its addresses unchanged" if traced.transparent else ""
    where = OUTCOMES[traced.outcome].format(port=traced.port, rule_set=rule_set)
    is_foreign = traced.step is not None and isinstance(traced.step.rule.verdict, Redirect) and not is_second
    by_whom = f", by {rule_set}" if is_foreign and traced.outcome in TO_PROXY else ""
    return VerdictLine(f"{traced.outcome}: it {where}{transparent}{by_whom}")


def _drop_text(traced: Trace) -> str:
    from capture.analysis.meaning import rejects  # verify words no traces

    if traced.step is not None:
        return "refused by the rule marked =>" if rejects(traced.step.rule) else "by the rule marked =>"
    if traced.location is not None:
        return f"by the policy DROP of {traced.location.short}"
    return "no rule accepts it"


def _shown_steps(traced: Trace, table: str | None) -> Iterator[Step]:
    return (step for step in traced.path if table in (None, step.table))


def path_lines(traced: Trace, table: str | None = None) -> Iterator[str]:
    """Yield a line for each rule that the packet met; `=>` marks the one that decides."""
    family = traced.packet.family
    is_back = traced.packet.in_interface is not None
    for step in _shown_steps(traced, table):
        if not is_back and step.base_chain is not None and step.base_chain.hook in COMING_IN:
            is_back = True
            yield "     then it comes in over lo:"
        mark = "? " if not step.is_certain else DECIDES_MARK if step == traced.step else "  "
        text, why = _rule_and_reason(step, family)
        line = f"  {mark} {'  ' * step.depth}{step.location.short}: {text}{f'   # {why}' if why else ''}"
        yield VerdictLine(line, mark)


def _rule_and_reason(step: Step, family: Family) -> tuple[str, str]:
    """Return a rule in words, and its reason; a foreign rule of nf_tables is in the words of nft(8), and has none."""
    if step.table not in TABLES and step.rule.why not in ("", REJECT_REASON):
        return step.rule.why, ""
    return shown_rule(step.rule, family), step.rule.why


def _rule_text(step: Step, traced: Trace) -> str:
    text = shown_rule(step.rule, traced.packet.family)
    return f"-t {step.table} -A {step.chain} {text}" if step.table in TABLES else f"{step.table} {step.chain}: {text}"

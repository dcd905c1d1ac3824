"""The packet's path as a tree, with the counters of each edge: what ``docs/how-capture-works.md`` draws, live. Pure.

::

    outbound
    └ nat OUTPUT
      ├ ISTIO-OUTPUT              outbound connections                    54 packets
      │ ├ direct                  the proxy itself goes out               12
      │ └ proxy :15001            all other outbound connections          42
      └ direct                    policy ACCEPT                         1020

An edge is a rule, or several of one chain with one target and one reason: those of both families, and of several
ports. A chain that does nothing but send to the proxy is no node of its own. Foreign rules are where packets meet them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

from capture.analysis.base_chains import BaseChain, Situation
from capture.analysis.meaning import effective_verdict
from capture.analysis.outcome import DNS, redirect_outcome
from capture.analysis.ownership import own_positions
from capture.model import ruleset as model
from capture.model.addresses import Family
from capture.model.chain_names import is_own_chain
from capture.model.conventions import REJECT_REASON
from capture.model.values import Value

EdgeKind = Literal["table", "chain", "proxy", "dns", "direct", "dropped", "goes on", "foreign"]

HOOK_OF_DIRECTION = (("outbound", model.OUTPUT), ("inbound", model.PREROUTING))
CHANGE_TEXTS: dict[type, Callable[[Any], str]] = {
    model.SaveMark: lambda _: "mark saved",
    model.RestoreMark: lambda _: "mark restored",
    model.Log: lambda _: "logged",
    model.SetZone: lambda verdict: f"zone {verdict.zone}",
    model.SetMark: lambda verdict: f"mark {verdict.value:#x}",
    model.UnknownVerdict: lambda verdict: verdict.target,
}
"""The effect of rules after which packets go on to the next one, in words."""


class Edge(Value):
    """An edge: where packets go from the one above, how many so far, and how many in a second.

    Counts are None where the kernel keeps none; ``rate`` is None before a second look.
    """

    to: str
    kind: EdgeKind
    text: str
    packets: int | None = None
    bytes: int | None = None
    rate: float | None = None
    families: tuple[Family, ...] = ()
    below: tuple[Edge, ...] = ()


class PathTree(Value):
    """The path of one direction: the tables at its hook, in the order in which packets meet them."""

    direction: str
    tables: tuple[Edge, ...]


def path_trees(
    situation: Situation, families: Sequence[Family], text_of: Callable[[model.Rule, Family], str]
) -> tuple[PathTree, ...]:
    """Return the paths out of the pod and into it. ``text_of`` gives a rule in words, for foreign ones."""
    tables = ((direction, _tables(situation, hook, families, text_of)) for direction, hook in HOOK_OF_DIRECTION)
    return tuple(PathTree(direction, tuple(edges)) for direction, edges in tables)


def with_rates(now: Sequence[PathTree], before: Sequence[PathTree], seconds: float) -> tuple[PathTree, ...]:
    """Return flows with rates: what was counted since an earlier look, by the second."""
    known: dict[tuple[str, ...], int] = {}
    for flow in before:
        known |= dict(_packet_counts(flow.tables, (flow.direction,)))

    def rated(edge: Edge, where: tuple[str, ...]) -> Edge:
        path = (*where, edge.to, edge.text)
        below = tuple(rated(below_edge, path) for below_edge in edge.below)
        if edge.packets is None or path not in known or edge.packets < known[path]:
            return edge.replace(below=below)  # also where rules were replaced in between, and count anew
        return edge.replace(below=below, rate=(edge.packets - known[path]) / seconds)

    return tuple(flow.replace(tables=tuple(rated(each, (flow.direction,)) for each in flow.tables)) for flow in now)


def _packet_counts(edges: Iterable[Edge], parents: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    for edge in edges:
        path = (*parents, edge.to, edge.text)
        if edge.packets is not None:
            yield path, edge.packets
        yield from _packet_counts(edge.below, path)


# --- tables --------------------------------------------------------------------------------------


def _tables(
    situation: Situation, hook: str, families: Sequence[Family], text_of: Callable[[model.Rule, Family], str]
) -> Iterator[Edge]:
    chains: dict[tuple[str, str], tuple[BaseChain, list[Family]]] = {}
    for family in families:
        for base_chain in situation.base_chains(hook, family):
            chains.setdefault((base_chain.table, base_chain.chain.name), (base_chain, []))[1].append(family)
    for base_chain, met_by in chains.values():
        reader = EdgeReader(situation, base_chain, tuple(met_by), text_of)
        below = reader.edges(base_chain.chain)
        if below or base_chain.table == model.NAT:
            is_second = any(is_own_chain(chain.name) for chain in base_chain.contents.chains)
            owner = "second set" if is_second else "foreign"
            text = "" if base_chain.is_own else f"{owner}, priority {base_chain.priority}"
            name = base_chain.location(base_chain.chain.name).short
            yield Edge(name, "table", text, below=(*below, *reader.edges_at_end()))


class EdgeReader:
    """Reads the edges of one table, for some families."""

    def __init__(
        self,
        situation: Situation,
        base_chain: BaseChain,
        families: tuple[Family, ...],
        text_of: Callable[[model.Rule, Family], str],
    ) -> None:
        self.table: model.Table = base_chain.contents
        self.families = families
        self._situation = situation
        self._base_chain = base_chain
        self._text_of = text_of
        self._known: dict[str, tuple[Edge, ...]] = {}
        of_own = families if base_chain.is_own else ()
        self._own = {family: own_positions(situation.ruleset, family) for family in of_own}

    def edges(self, chain: model.Chain) -> tuple[Edge, ...]:
        """Return the edges that leave a chain, in the order of its rules; of both families as one."""
        if chain.name not in self._known:
            self._known[chain.name] = ()  # should it lead to itself, which no kernel takes
            self._known[chain.name] = self._merged_edges(chain)
        return self._known[chain.name]

    def _merged_edges(self, chain: model.Chain) -> tuple[Edge, ...]:
        merged: dict[tuple[str, str, str], Edge] = {}
        for family in self.families:
            for position, rule in enumerate(chain.rules_for(family)):
                if rule.family is None and family != self.families[0]:
                    continue  # one rule for both, with one counter
                edge = self._rule_edge(chain, position, rule, family)
                key = (edge.to, edge.kind, edge.text)
                merged[key] = _joined_edges(merged[key], edge) if key in merged else edge
        return tuple(merged.values())

    def edges_at_end(self) -> Iterator[Edge]:
        """Yield where packets go if no rule of the base chain decides; from a foreign one on to the next."""
        chain = self._base_chain.chain
        for policy in dict.fromkeys(chain.policy_for(family) for family in self.families):
            if policy is None or (not self._base_chain.is_own and policy == "ACCEPT"):
                continue
            families = tuple(family for family in self.families if chain.policy_for(family) == policy)
            alike = families if chain.ipv6_policy is not None else families[:1]  # else one chain for both counts once
            known = [each for each in map(chain.counters_for, alike) if each is not None]
            kind = "dropped" if policy == "DROP" else self._continuation_kind()
            if kind == "goes on" and not known:
                continue  # that packets go on needs no edge without a count
            yield Edge(
                kind,
                kind,
                f"policy {policy}",
                _total(each.packets for each in known),
                _total(each.bytes for each in known),
                families=families,
            )

    def _rule_edge(self, chain: model.Chain, position: int, rule: model.Rule, family: Family) -> Edge:
        kind, target, below = self._edge_target(chain, rule)
        own = self._own.get(family, {}).get((self.table.name, chain.name), ())
        if rule.why == REJECT_REASON:
            text, target, kind = rule.why, "refused", "dropped"
        elif not is_own_chain(chain.name) and position not in own:
            nft_words = rule.why if self._base_chain.table not in model.TABLES else ""  # rules of iptables have none
            text = f"rule {position + 1}: {nft_words or self._text_of(rule, family)}"
            target, kind = f"foreign: {target}", "foreign"
        else:
            text = rule.why or self._text_of(rule, family)
        packets, size = (rule.counters.packets, rule.counters.bytes) if rule.counters else (None, None)
        families = self.families if rule.family is None else (rule.family,)
        return Edge(target, kind, text, packets, size, families=families, below=below)

    def _edge_target(self, chain: model.Chain, rule: model.Rule) -> tuple[EdgeKind, str, tuple[Edge, ...]]:
        """Return where a rule sends packets: the kind of place, its name, and the edges from there."""
        verdict = effective_verdict(rule) if isinstance(rule.verdict, model.Redirect) else rule.verdict
        if isinstance(verdict, model.Jump):
            entered = self.table.chain(verdict.chain)
            below = self.edges(entered) if entered is not None else ()
            if len(below) == 1 and below[0].kind in ("proxy", "dns") and not below[0].below:
                return below[0].kind, below[0].to, ()
            return "chain", verdict.chain, below
        if isinstance(verdict, model.Redirect | model.TransparentProxy):
            outcome = redirect_outcome(chain.name, verdict, self._situation.ruleset)
            if outcome == DNS:
                return "dns", f"agent's DNS :{verdict.port}", ()
            if is_own_chain(chain.name) or outcome != "redirected":
                return "proxy", f"proxy :{verdict.port}", ()
            return "foreign", f"port {verdict.port}", ()
        if isinstance(verdict, model.Drop):
            return "dropped", "dropped", ()
        if isinstance(verdict, model.Return | model.Accept):
            return self._continuation_kind(), self._continuation_kind(), ()
        change = CHANGE_TEXTS.get(type(verdict))
        return "goes on", change(verdict) if change else "counted", ()

    def _continuation_kind(self) -> EdgeKind:
        return "direct" if self.table.name == model.NAT and self._base_chain.is_own else "goes on"


def _joined_edges(first: Edge, second: Edge) -> Edge:
    """Return two edges as one; those below are of the same chain, of one family or both, and are read once for both."""
    return first.replace(
        packets=_total((first.packets, second.packets)),
        bytes=_total((first.bytes, second.bytes)),
        families=tuple(dict.fromkeys((*first.families, *second.families))),
    )


def _total(numbers: Iterable[int | None]) -> int | None:
    known = [each for each in numbers if each is not None]
    return sum(known) if known else None

"""The live rules in the four formats of ``capture dump``; ``istio-init`` ends with the first of them."""

from __future__ import annotations

from capture.analysis.ownership import own_positions, without_foreign_rules
from capture.backends.iptables.render import shown_rule
from capture.model import ruleset as model
from capture.model.addresses import FAMILIES, FAMILY_NAMES, IPV6, Family
from capture.model.chain_names import is_own_chain
from capture.model.text import without_line_ends
from capture.model.values import Value
from capture.report.output import VerdictLine
from capture.report.table import ListedChain, Row, is_of_family, listed_chains, listing
from capture.report.verified_text import conclusion_lines, differences_as_plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from typing import Any

    from capture.operations import Dumped, LiveSet, Verified

UNKNOWN_PARTS = (model.UnknownVerdict, model.UnknownMatch)


class ShownTable(Value):
    """One table of one family in one place of the kernel, which is to be shown."""

    live_set: LiveSet
    family: Family
    table: model.TableName

    @property
    def heading(self) -> str:
        """Return where this is, in words."""
        return f"# {self.live_set.choice.place_text}, {FAMILY_NAMES[self.family]}, table {self.table}"


def shown_tables(
    dumped: Dumped, family: Family | None = None, table_name: model.TableName | None = None
) -> Iterator[ShownTable]:
    """Yield what to show: all that holds our rules, or the part of it that was chosen."""
    for live_set in dumped.live_sets:
        for shown_family in [family] if family else FAMILIES:
            for shown_table in [table_name] if table_name else model.SHOWN_TABLES:
                if _holds_own(live_set.live, shown_family, shown_table):
                    yield ShownTable(live_set, shown_family, shown_table)


def _holds_own(live: model.Ruleset, family: Family, table_name: model.TableName) -> bool:
    whole = live.table(table_name)
    if whole is None or family not in live.families:
        return False
    if any(is_own_chain(chain.name) and is_of_family(chain, table_name, family) for chain in whole.chains):
        return True
    return any(place[0] == table_name for place in own_positions(live, family))


def listing_lines(
    shown: list[ShownTable], verified: Verified | None, *, is_whole: bool, width: int | None = None
) -> list[str]:
    """Return the lines of the listings; several ones with headings, and, of a whole namespace, whether it is in sync.

    With ``width``, chains that are wider have narrower columns than those of iptables.
    """
    lines: list[str] = []
    for part in shown:
        lines += [part.heading] if len(shown) > 1 or is_whole else []
        lines += listing(part.live_set.live, part.family, part.table, width).split("\n")  # the last is empty
    if is_whole and verified is not None:
        return [*lines, *(VerdictLine(f"# {line}") for line in conclusion_lines(verified))]
    return lines[:-1]


def dumped_text(dumped: Dumped) -> str:
    """Return the listings of a whole namespace."""
    return "\n".join(listing_lines([*shown_tables(dumped)], dumped.verified, is_whole=True))


def iptables_save_text(shown: list[ShownTable]) -> str:
    """Return what iptables-save would print, with counters."""
    import functools

    from capture.backends.iptables.render import save_text

    texts = []
    for part in shown:
        only, backend = _part_of(part.live_set.live, (part.table,), part.family), part.live_set.choice.backend
        render = functools.partial(save_text, family=part.family, counters=True)
        texts.append(f"{part.heading}\n{_rendered_rules(render, only, '' if backend == 'iptables' else backend)}")
    return "\n".join(texts)


def nft_script(shown: list[ShownTable]) -> str:
    """Return nft scripts that make these rules in our tables, where there is no place for foreign rules."""
    from capture.backends.nftables.lower import render_text

    texts = []
    for live_set in dict.fromkeys(part.live_set for part in shown):
        of_it, backend = [part for part in shown if part.live_set is live_set], live_set.choice.backend
        families = tuple(dict.fromkeys(part.family for part in of_it))
        live = live_set.live if backend == "nftables" else without_foreign_rules(live_set.live)
        only = _part_of(live, {part.table for part in of_it}).replace(families=families)
        texts.append(_rendered_rules(render_text, only, backend))
    return "\n".join(texts)


def _rendered_rules(render: Callable[[model.Ruleset], str], live: model.Ruleset, backend: str) -> str:
    """Return the text of rules, after comments about those that it has no words for, such as a quote in nft's.

    What the model lacks is in words of ``backend``, which are of no use here; "" if they are.
    """
    left_out: list[str] = []

    def error_of(rules: model.Ruleset) -> str:
        try:
            render(rules)
        except ValueError as error:
            return str(error)
        return ""

    def problem(rule: model.Rule) -> str:
        if backend and any(isinstance(part, UNKNOWN_PARTS) for part in (rule.verdict, *rule.matches)):
            return f"since only {backend} can express it"
        alone = model.Table(model.NAT, (model.Chain(model.OUTPUT, (rule,)),))
        return error_of(live.replace(tables=(alone,))) if is_any_wrong else ""

    def sayable(table: model.TableName, chain: model.Chain) -> model.Chain:
        rules = []
        for rule in chain.rules:
            if reason := problem(rule):
                words = shown_rule(rule, rule.family or live.families[0])
                left_out.append(f"# left out, {without_line_ends(reason)}: {table} {chain.name} {words}\n")
            else:
                rules.append(rule)
        return chain.replace(rules=tuple(rules))

    is_any_wrong = bool(error_of(live))  # which is rare, and rule by rule takes longer
    text = render(live.with_chains(sayable))
    return "".join(left_out) + text


def _part_of(live: model.Ruleset, names: Collection[model.TableName], family: Family | None = None) -> model.Ruleset:
    tables = [table for table in live.tables if table.name in names]
    if family is not None:
        tables = [
            table.replace(chains=tuple(chain for chain in table.chains if is_of_family(chain, table.name, family)))
            for table in tables
        ]
    return live.replace(tables=tuple(tables))


def as_json(dumped: Dumped, shown: list[ShownTable]) -> dict[str, object]:
    """Return what ``--format json`` prints; docs/commands/dump.md describes it."""
    verified = dumped.verified
    return {
        "as_asked": None if verified is None else verified.holds,
        "certain": None if verified is None else verified.is_certain,
        "differences": [] if verified is None else differences_as_plain(verified),
        "rejected_families": [IPV6] * dumped.rejects_ipv6,
        "tables": [_table_as_json(part) for part in shown],
    }


def _table_as_json(part: ShownTable) -> dict[str, object]:
    whole = part.live_set.live.table(part.table)
    chains = listed_chains(whole, part.family) if whole else ()
    return {
        "backend": part.live_set.choice.backend,
        "driver": part.live_set.choice.driver,
        "variant": part.live_set.choice.variant or None,
        "family": part.family,
        "table": part.table,
        "chains": [_chain_as_json(chain, part.family) for chain in chains],
    }


def _chain_as_json(chain: ListedChain, family: Family) -> dict[str, object]:
    plain: dict[str, object] = {"chain": chain.name, "rules": [_row_as_json(row, family) for row in chain.rows]}
    if chain.policy is None:
        return plain | {"references": chain.references}
    return plain | {
        "policy": chain.policy,
        "packets": chain.counters.packets if chain.counters else None,
        "bytes": chain.counters.bytes if chain.counters else None,
    }


def _row_as_json(row: Row, family: Family) -> dict[str, object]:
    return {
        "packets": row.counters.packets if row.counters else None,
        "bytes": row.counters.bytes if row.counters else None,
        "target": row.target,
        "prot": row.protocol,
        "opt": row.options,
        "in": row.in_interface,
        "out": row.out_interface,
        "source": row.source,
        "destination": row.destination,
        "extra": row.extra,
        "rule": shown_rule(row.rule, family),
        "more": _more_texts(row.rule, family),
    }


def _more_texts(rule: model.Rule, family: Family) -> list[str]:
    from capture.backends.iptables.expansion import expanded
    from capture.backends.iptables.render import rule_text

    _, *further = expanded([rule.replace(family=family, why="")], family)
    return [rule_text(rule) for rule in further]


def ruleset_of_dump(plain: dict[str, Any]) -> model.Ruleset:
    """Return the rule set that ``as_json`` printed, without counters: its inverse.

    Raises KeyError, TypeError or ValueError for what is no dump.
    """
    from capture.backends.iptables.families import merge_families
    from capture.backends.iptables.parse import parse_save

    blocks: dict[Family, dict[str, tuple[dict[str, str], list[str]]]] = {}
    for part in plain["tables"]:  # of several rule sets, a table may be there twice
        declared, rules = blocks.setdefault(part["family"], {}).setdefault(part["table"], ({}, []))
        for chain in part["chains"]:
            declared.setdefault(chain["chain"], f":{chain['chain']} {chain.get('policy', '-')} [0:0]")
            for rule in chain["rules"]:
                first = str.removesuffix(rule["rule"], f" (and {len(rule['more'])} more like it)")
                rules += [f"-A {chain['chain']} {text}" for text in (first, *rule["more"])]
    read = []
    for family, tables in blocks.items():
        lines = [(f"*{name}", *declared.values(), *rules, "COMMIT\n") for name, (declared, rules) in tables.items()]
        read.append(parse_save("\n".join(line for of_table in lines for line in of_table), family))
    return merge_families(read) if read else model.Ruleset((), ())

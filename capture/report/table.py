"""Rule sets in the layout of ``iptables -nvL``; pure.

Columns, widths and words are those of iptables(8) and of the extensions it prints with (print_header and
print_rule_details in iptables/nft-shared.c, ``.print`` in extensions/libxt_*.c, version 1.8.9), with two
liberties: protocols are words in every version, and no line ends in blanks. Foreign chains are
where their names sort; the kernel's own chains come first. A backend that lists several networks in one
rule shows them in one line, since they share one counter.
"""

from __future__ import annotations

from capture.backends.iptables.expansion import bits_text, multiport_slots, ports_text
from capture.model import ruleset as model
from capture.model.addresses import ANY_ADDRESS, Family, Network, address_text
from capture.model.foreign import LaterFragment, Protocols
from capture.model.text import without_line_ends
from capture.model.values import Value
from capture.report.fold import folded_table, width_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

COLUMN_NAMES = " pkts bytes target     prot opt in     out     source               destination"
NO_OPTIONS = "--"
GOTO_SIGN = "[goto]"
"""Before all else of a foreign rule that goes to a chain and does not come back from it."""


class Row(Value):
    """One rule as the columns of a listing; counters are None where the backend has none for it."""

    counters: model.Counters | None
    target: str
    protocol: str
    options: str
    in_interface: str
    out_interface: str
    source: str
    destination: str
    extra: str
    rule: model.Rule


class ListedChain(Value):
    """A chain as one family sees it: its rows, its policy if the kernel enters it by itself, who jumps to it."""

    name: str
    policy: str | None
    counters: model.Counters | None
    references: int
    rows: tuple[Row, ...]


def listed_chains(table: model.Table, family: Family) -> Iterator[ListedChain]:
    """Yield the chains of a table as one family sees them, in the order of a listing."""
    references: dict[str, int] = {}
    for chain in table.chains:
        for rule in chain.rules_for(family):
            target = target_name(rule.verdict)
            references[target] = references.get(target, 0) + 1
    chains = [each for each in table.chains if each.name in references or is_of_family(each, table.name, family)]
    for chain in sorted(chains, key=lambda chain: _sort_key(chain, table.name)):
        rows = tuple(rule_row(rule, family) for rule in chain.rules_for(family))
        is_built_in = chain.name in model.BUILT_IN_CHAINS[table.name]
        policy = (chain.policy_for(family) or "ACCEPT") if is_built_in else None
        yield ListedChain(chain.name, policy, chain.counters_for(family), references.get(chain.name, 0), rows)


def is_of_family(chain: model.Chain, table: model.TableName, family: Family) -> bool:
    """Return whether a chain is there for the family: one whose rules are all for the other is there only."""
    return chain.name in model.BUILT_IN_CHAINS[table] or not chain.rules or any(chain.rules_for(family))


def _sort_key(chain: model.Chain, table: model.TableName) -> tuple[int, str]:
    """Return where a chain is listed: IN_REDIRECT after INBOUND, in either spelling."""
    built_in = model.BUILT_IN_CHAINS[table]
    if chain.name in built_in:
        return built_in.index(chain.name), ""
    return len(built_in), chain.name.replace("-", "_")


def listing(ruleset: model.Ruleset, family: Family, table_name: model.TableName, width: int | None = None) -> str:
    """Return what ``iptables -t TABLE -nvL`` (or ``ip6tables``) would print; "" if there is no such table.

    A chain that is wider than ``width`` has columns as narrow as what is in them, and folds the last one.
    """
    table = ruleset.table(table_name)
    if table is None or family not in ruleset.families:
        return ""
    return "\n".join(_chain_text(chain, width) for chain in listed_chains(table, family))


def _chain_text(chain: ListedChain, width: int | None) -> str:
    if chain.policy is None:
        about = f"{chain.references} references"
    elif chain.counters is None:
        about = f"policy {chain.policy}"
    else:
        packets, size = counter_text(chain.counters.packets).strip(), counter_text(chain.counters.bytes).strip()
        about = f"policy {chain.policy} {packets} packets, {size} bytes"
    lines = [COLUMN_NAMES, *map(row_text, chain.rows)]
    if width is not None and any(width_of(line) > width for line in lines):
        lines = list(folded_table([_row_cells(chain.rows, row) for row in (None, *chain.rows)], width, gap=1))
    return "".join(f"{line}\n" for line in (f"Chain {without_line_ends(chain.name)} ({about})", *lines))


def _row_cells(rows: tuple[Row, ...], row: Row | None) -> list[str]:
    """Return the columns of a row, or their names, for a narrow listing: without options where no rule has any."""
    if row is None:
        cells = [" pkts", *COLUMN_NAMES.split()[1:], ""]
    else:
        named = [row.target, row.protocol, row.options, row.in_interface, row.out_interface]
        cells = [*_counter_texts(row), *named, row.source, row.destination, row.extra]
    return cells if any(row.options != NO_OPTIONS for row in rows) else [*cells[:4], *cells[5:]]


def _counter_texts(row: Row) -> tuple[str, str]:
    counters = row.counters
    return (counter_text(counters.packets), counter_text(counters.bytes)) if counters else ("    -", "    -")


def row_text(row: Row) -> str:
    """Return one line of a listing, without the blanks at its end."""
    packets, size = _counter_texts(row)
    columns = (
        f"{packets} {size} {row.target:<9} {_with_sign(row.protocol, 4)} {row.options:<3} "
        f"{row.in_interface:<6} {row.out_interface:<6} {_with_sign(row.source, 19)} {_with_sign(row.destination, 19)} "
    )
    if _is_goto(row.rule.verdict):  # the sign is one column to the left
        return f"{columns}{GOTO_SIGN} {row.extra.removeprefix(GOTO_SIGN)}".rstrip()
    return f"{columns} {row.extra}".rstrip()


def _with_sign(text: str, width: int) -> str:
    sign, rest = ("!", text[1:]) if text.startswith("!") else (" ", text)
    return f"{sign}{rest:<{width}}"


def counter_text(number: int) -> str:
    """Return a counter as xtables_print_num() of libxtables prints it: 99999, 100K, 10M, in five columns."""
    if number <= 99999:
        return f"{number:>5}"
    for unit in "KMG":
        number = (number + 500) // 1000
        if number <= 9999:
            return f"{number:>4}{unit}"
    return f"{(number + 500) // 1000:>4}T"


def rule_row(rule: model.Rule, family: Family) -> Row:
    """Return the columns of a rule as one family sees it."""
    columns = {"protocol": "all", "options": NO_OPTIONS, "in_interface": "*", "out_interface": "*"}
    columns["source"] = columns["destination"] = f"{ANY_ADDRESS[family]}/0"
    for match in rule.matches:
        named = _own_column(match)
        if named:
            columns[named[0]] = named[1]
    extras = [GOTO_SIGN] if _is_goto(rule.verdict) else []
    extras += _extra_texts(rule.matches)
    if rule.why:
        extras.append(f"/* {rule.why} */")
    extras += _target_extras(rule.verdict, family)
    return Row(
        counters=rule.counters,
        target=without_line_ends(target_name(rule.verdict)),
        extra=without_line_ends(" ".join(extras)),
        rule=rule,
        **columns,
    )


def _own_column(match: model.Match) -> tuple[str, str] | None:
    """Return the column that a match has of its own, and what is in it; None if it is printed at the end."""
    sign = "!" if match.negated else ""
    if isinstance(match, model.Protocol):
        return "protocol", match.name
    if isinstance(match, model.AddressMatch):
        column = "source" if isinstance(match, model.Source) else "destination"
        texts = [network.shown for network in _networks_of_column(match)]
        several = f"{{{','.join(texts)}}}" if len(texts) > 1 else ""
        return (column, sign + (several or texts[0])) if texts else None
    if isinstance(match, model.InterfaceMatch):
        column = "in_interface" if isinstance(match, model.InInterface) else "out_interface"
        return column, sign + match.name
    match match:
        case model.UnknownMatch(test=Protocols((name,), negated)):
            return "protocol", f"{'!' * negated}{name}"
        case model.UnknownMatch(test=LaterFragment(negated)):
            return "options", "!f" if negated else "-f"
    return None


def _is_goto(verdict: model.Verdict) -> bool:
    return isinstance(verdict, model.UnknownVerdict) and isinstance(verdict.then, model.Goto)


def _networks_of_column(match: model.AddressMatch) -> tuple[Network, ...]:
    """Return the networks that the column shows: of excluded ones the first, unless that is everything.

    ``! -s 0.0.0.0/0`` is written as a range, because iptables-nft 1.8.9 fails on it.
    """
    if not match.negated:
        return match.networks
    return match.networks[: 0 if match.networks[0].is_everything else 1]


def target_name(verdict: model.Verdict) -> str:
    """Return the name of the target or chain, as the column shows it."""
    if isinstance(verdict, model.Jump):
        return verdict.chain
    if isinstance(verdict, model.UnknownVerdict):
        return verdict.target
    return TARGET_NAMES[type(verdict)]


TARGET_NAMES: dict[type, str] = {
    model.Return: "RETURN", model.Accept: "ACCEPT", model.Drop: "DROP", model.Redirect: "REDIRECT",
    model.TransparentProxy: "TPROXY", model.SetMark: "MARK", model.SaveMark: "CONNMARK", model.RestoreMark: "CONNMARK",
    model.SetZone: "CT", model.Log: "LOG", model.Continue: "",
}  # fmt: skip


def _extra_texts(matches: tuple[model.Match, ...]) -> Iterator[str]:
    ports = [match for match in matches if isinstance(match, model.PortMatch)]
    if not ports:
        yield from _further_networks(matches)
    for match in matches:
        if isinstance(match, model.PortMatch):
            yield from _port_texts(match, matches)
            if match is ports[-1]:
                yield from _further_networks(matches)
        elif isinstance(match, model.OwnerMatch):
            yield from _owner_texts(match)
        else:
            yield from _single_text(match)


def _single_text(match: model.Match) -> Iterator[str]:
    negation = "!" if match.negated else ""
    if isinstance(match, model.Mark):
        yield f"mark match {negation and '! '}{bits_text(match.value, match.mask)}"
    elif isinstance(match, model.ConnectionMark):
        yield f"connmark match {negation} {bits_text(match.value, match.mask)}"
    elif isinstance(match, model.ConnectionState):
        yield f"{negation and '! '}ctstate {','.join(match.states)}"
    elif isinstance(match, model.UnknownMatch) and _own_column(match) is None:
        yield match.text


def _further_networks(matches: tuple[model.Match, ...]) -> Iterator[str]:
    """Yield the ranges of excluded networks: of sources first, unless the rule has those of destinations before."""
    negated = (match for match in matches if isinstance(match, model.AddressMatch) and match.negated)
    # A destination with a column is first in the rule because of that one.
    for match in sorted(
        negated, key=lambda each: isinstance(each, model.Destination) and _own_column(each) is not None
    ):
        column = "source" if isinstance(match, model.Source) else "destination"
        for network in match.networks[len(_networks_of_column(match)) :]:
            first, last = (address_text(network.family, end) for end in (network.first, network.last))
            yield f"{column} IP range ! {first}-{last}"


def _port_texts(match: model.PortMatch, matches: tuple[model.Match, ...]) -> Iterator[str]:
    """Yield the words about ports: single ones of both ends together, by the extension of their protocol.

    A list is written with multiport, which holds 15 ports; excluded ones may need several.
    """
    if len(match.ports) > 1:
        name = "sports" if isinstance(match, model.SourcePort) else "dports"
        for slots in multiport_slots(match.ports) if match.negated else [match.ports]:
            yield f"multiport {name} {' !' if match.negated else ''}{ports_text(slots)}"
        return
    single = [other for other in matches if isinstance(other, model.PortMatch) and len(other.ports) == 1]
    if match is single[0]:
        protocol = next((other.name for other in matches if isinstance(other, model.Protocol)), "all")
        yield " ".join((protocol, *map(_single_port_text, single)))


def _single_port_text(match: model.PortMatch) -> str:
    name = "spt" if isinstance(match, model.SourcePort) else "dpt"
    span = match.ports[0]
    plural = "" if span.first == span.last else "s"
    return f"{name}{plural}:{'!' if match.negated else ''}{ports_text([span])}"


def _owner_texts(match: model.OwnerMatch) -> Iterator[str]:
    """Yield one text for each user that is excluded, as iptables needs one match for each; one for a list."""
    label = "owner UID match" if isinstance(match, model.OwnerUid) else "owner GID match"
    if match.negated:
        for span in match.ids:
            yield f"! {label} {span}"
    else:
        yield f"{label} {','.join(map(str, match.ids))}"


def _target_extras(verdict: model.Verdict, family: Family) -> list[str]:
    if isinstance(verdict, model.TransparentProxy):
        return [f"TPROXY redirect {ANY_ADDRESS[family]}:{verdict.port} mark {verdict.mark:#x}/{verdict.mask:#x}"]
    if isinstance(verdict, model.UnknownVerdict):
        return [verdict.options] if verdict.options else []
    return [TARGET_EXTRAS[type(verdict)](verdict)] if type(verdict) in TARGET_EXTRAS else []


def _set_mark_text(verdict: model.SetMark) -> str:
    """Return what mark_tg_print() in extensions/libxt_MARK.c prints: the simplest word that is true."""
    if verdict.value == 0:
        return f"MARK and {model.ALL_BITS & ~verdict.mask:#x}"
    if verdict.value == verdict.mask:
        return f"MARK or {verdict.value:#x}"
    if verdict.mask == model.ALL_BITS:
        return f"MARK set {verdict.value:#x}"
    return f"MARK xset {verdict.value:#x}/{verdict.mask:#x}"


TARGET_EXTRAS: dict[type, Callable[[Any], str]] = {
    model.Redirect: lambda verdict: f"redir ports {verdict.port}",
    model.SetMark: _set_mark_text,
    model.SaveMark: lambda _: "CONNMARK save",
    model.RestoreMark: lambda _: "CONNMARK restore",
    model.SetZone: lambda verdict: f"CT zone {verdict.zone}" if verdict.zone else "CT",
    model.Log: lambda verdict: "LOG flags 0 level 4" + (f' prefix "{verdict.prefix}"' if verdict.prefix else ""),
}
"""What the target's extension prints after the matches."""

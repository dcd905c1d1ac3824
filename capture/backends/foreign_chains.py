"""Base chains of others in nf_tables, read as foreign chains.

Tables of iptables-nft are tables of nf_tables, too; their rules are read in the words of iptables. The base chains
that iptables has there are left out where the capture is in these tables: its driver reads them.
"""

from __future__ import annotations

from capture.analysis.base_chains import (
    PRIORITIES,
    SOURCE_HOOKS,
    BaseChain,
    base_chains_of_iptables,
    source_translations,
)
from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.decode import Program, decode_rule
from capture.backends.nf_tables.lift import lift_rules
from capture.backends.nf_tables.listing import FoundChain, FoundTable, read_rules, read_tables
from capture.backends.nf_tables.names import HOOKS, MODEL_TABLES, Hook, model_target
from capture.backends.nf_tables.native import MARK_FIELDS, Cases, TproxyStatement
from capture.backends.nf_tables.render import described
from capture.backends.nftables.netlink import set_finder
from capture.errors import UnsupportedError
from capture.model import ruleset as model
from capture.model.addresses import FAMILIES, FAMILY_BY_NUMBER, Family
from capture.model.conventions import REJECT_REASON
from capture.netlink.attributes import Fields, decode_fields, decode_text
from capture.netlink.nfnetlink import open_nfnetlink, read_consistently

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from capture.backends.iptables.xt_decode import RuleReader
    from capture.backends.nf_tables.native import Condition, NativeRule
    from capture.netlink.sockets import NetlinkSocket


MODEL_HOOKS = {hook.lower(): hook for hook in (model.PREROUTING, model.OUTPUT, model.INPUT, model.POSTROUTING)}
"""The hooks that packets of a pod pass, by the kernel's names; at the last two, nat maps sources alone."""
HOOKS_OF_DEVICES: dict[tuple[int, str], tuple[str, type[model.InterfaceMatch]]] = {
    (nf.NFPROTO_INET, "ingress"): (model.PREROUTING, model.InInterface),
    (nf.NFPROTO_NETDEV, "prerouting"): (model.PREROUTING, model.InInterface),
    (nf.NFPROTO_NETDEV, "input"): (model.POSTROUTING, model.OutInterface),
}
"""Chains of a device: before PREROUTING, or behind POSTROUTING. The numbers that netdev has for the two are those of
other hooks elsewhere (linux/netfilter.h, enum nf_dev_hooks)."""

XT_EXPRESSIONS = (b"match\0", b"target\0")
"""Names of expressions that carry a match or a target of x_tables (net/netfilter/nft_compat.c)."""
SET_EXPRESSIONS = (b"lookup\0", b"objref\0")
"""Names of expressions that iptables-nft does not write, and nft(8) may have put into its tables."""
PLACES = {"nftables": ("nftables", ""), "nft": ("iptables", "nft")}
"""The backend and variant of a flavour."""
FURTHER_TABLES = ("filter", "security")
"""Tables of iptables in which we never write."""


def _is_usual(chain: FoundChain) -> bool:
    """Return whether a base chain is one that iptables has in its table, or we have in a native one."""
    table = MODEL_TABLES.get(chain.table)
    name = chain.name.upper() if table else chain.name
    return HOOKS.get((table or model.TABLES_BY_NAME[chain.table], name)) == chain.hook


def _is_filter_of_iptables(table: FoundTable) -> bool:
    """Return whether a table is a further one that iptables-nft writes: it calls base chains by their hooks."""
    is_further = table.family in FAMILY_BY_NUMBER and table.name in FURTHER_TABLES
    return is_further and {chain.name for chain in _base_chains(table)} <= {model.INPUT, model.FORWARD, model.OUTPUT}


def _base_chains(table: FoundTable) -> list[FoundChain]:
    """Return the chains of a table that the kernel enters."""
    return [chain for chain in table.chains if chain.hook is not None]


def read_foreign_chains(own_places: Collection[tuple[str, str]]) -> tuple[BaseChain, ...]:
    """Return the base chains of others that packets of a pod meet, in the order of their priorities.

    ``own_places`` are the backends, with variants, whose tables are left out; chains of our other sets are among
    the foreign ones. Empty without nf_tables, or without nfnetlink to read it.
    """
    task = "read the chains of others in nf_tables"
    try:
        with open_nfnetlink() as netfilter:
            base_chains, _ = read_consistently(netfilter, task, lambda: list(_read(netfilter, own_places)))
    except UnsupportedError:
        return ()
    return tuple(sorted(base_chains, key=lambda each: each.order))


def rejecting_chains() -> Iterator[BaseChain]:
    """Yield the chains of --other-family reject, as they are read where they are written."""
    from capture.backends.other_family import written_table  # few captures reject anything

    table = written_table()
    for chain in table.chains:
        if chain.hook is not None:
            rules = tuple(
                alike.replace(why=REJECT_REASON) for rule in chain.rules for alike in _model_rules(rule, None)
            )
            yield BaseChain(
                f"inet {table.name}",
                FAMILIES,
                MODEL_HOOKS[chain.hook.name],
                chain.hook.priority,
                is_nat=False,
                contents=model.Table(model.MANGLE, (model.Chain(chain.name, rules, "ACCEPT"),)),
                is_own=True,
            )


def _read(netfilter: NetlinkSocket, own_places: Collection[tuple[str, str]]) -> Iterator[BaseChain]:
    reached = [each for each in read_tables(netfilter) if not each.is_dormant and any(map(_model_hook, each.chains))]
    tables = [table for family in nf.NFT_FAMILIES for table in reached if table.family == family]
    own = [table for table in tables if PLACES.get(table.flavour) in own_places]
    # Next to our own in legacy tables the order is unknown; they may be the newest.
    first = min((table.handle for table in own), default=0)
    for table in tables:
        is_shared = table in own or table.flavour == "nft"
        if is_shared and all(map(_is_usual, _base_chains(table))):
            continue
        for chain in _base_chains_of_table(netfilter, table, first, without_usual=is_shared):
            yield chain.replace(is_age_unknown=is_shared or not own)
    of_iptables = [table for table in tables if table.flavour == "nft" and table not in own]
    for chain in _iptables_base_chains(of_iptables, first) if of_iptables else ():
        yield chain.replace(is_age_unknown=not own)


def _base_chains_of_table(
    netfilter: NetlinkSocket, table: FoundTable, first_own: int, *, without_usual: bool
) -> Iterator[BaseChain]:
    """Yield the base chains of a table; with ``without_usual``, those that neither a capture nor iptables has there."""
    family, is_own = table.family, table.flavour == "reject"
    rules = _rules_by_chain(netfilter, table)
    if is_own:
        rules = _with_reason(rules)
    called = tuple(_model_chain(chain, rules) for chain in table.chains if chain.hook is None)
    for chain in _base_chains(table):
        hook, point = chain.hook, _model_hook(chain)
        if hook is None or not point or (without_usual and _is_usual(chain)):
            continue
        is_nat = hook.kind == "nat"
        entry = _model_chain(chain, rules)
        if is_nat and point in SOURCE_HOOKS:
            if point == model.INPUT or not source_translations(model.Table(model.NAT, (entry, *called))):
                continue
            is_nat = False
        is_of_devices = (family, hook.name) in HOOKS_OF_DEVICES
        if is_of_devices:
            entry = _device_chain(entry, chain.devices, HOOKS_OF_DEVICES[family, hook.name][1])
        chains = (entry, *called)
        if _is_behind_sockets(point, hook):
            chains = tuple(map(_receiver_chain, chains))
        yield BaseChain(
            f"{nf.NFT_FAMILIES[family]} {table.name}",
            (FAMILY_BY_NUMBER[family],) if family in FAMILY_BY_NUMBER else FAMILIES,
            point,
            hook.priority,
            is_nat,
            model.Table(model.NAT if is_nat else model.MANGLE, chains),
            is_older=table.handle < first_own,
            is_native=not _is_filter_of_iptables(table),
            is_route=hook.kind == "route",
            devices=chain.devices if is_of_devices else (),
            is_own=is_own,
            place=PLACES["nftables"] if table.flavour == "nftables" else None,
        )


def _with_reason(rules: dict[str, list[model.Rule]]) -> dict[str, list[model.Rule]]:
    """Return the rules of the table of --other-family reject; those that it wrote have the reason."""
    written = [rule for chain in rejecting_chains() for rule in chain.contents.rules]
    return {
        name: [rule.replace(why=REJECT_REASON) if rule in written else rule for rule in in_chain]
        for name, in_chain in rules.items()
    }


def _model_hook(chain: FoundChain) -> str:
    """Return the hook of the model at which packets meet a chain; "" for one that is not on their way."""
    name = chain.hook.name if chain.hook else ""
    if (chain.family, name) in HOOKS_OF_DEVICES:
        return HOOKS_OF_DEVICES[chain.family, name][0]
    return "" if chain.family == nf.NFPROTO_NETDEV else MODEL_HOOKS.get(name, "")


def _device_chain(entry: model.Chain, devices: tuple[str, ...], kind: type[model.InterfaceMatch]) -> model.Chain:
    """Return a base chain of devices as one for all packets, whose rules match these interfaces."""
    last = (model.Rule(model.Drop(), why="policy drop"),) if entry.policy == "DROP" else ()
    rules = [rule.replace(matches=(kind(name), *rule.matches)) for rule in (*entry.rules, *last) for name in devices]
    return entry.replace(rules=tuple(rules), policy="ACCEPT")


def _is_behind_sockets(point: str, hook: Hook) -> bool:
    """Return whether packets that come to a chain may have their socket: at INPUT, and behind TPROXY, which gives it.

    The kernel looks for that of an open connection before INPUT (early demux, ip_rcv_finish_core in ip_input.c).
    """
    return point == model.INPUT or (point == model.PREROUTING and hook.priority > PRIORITIES[model.MANGLE])


def _receiver_chain(chain: model.Chain) -> model.Chain:
    """Return a chain whose packets may have the owner of the receiving socket."""
    rules = []
    for rule in chain.rules:
        owner = model.UnknownMatch(f"owner: {rule.why}")
        matches = (owner if isinstance(each, model.OwnerMatch) else each for each in rule.matches)
        rules.append(rule.replace(matches=tuple(matches)))
    return chain.replace(rules=tuple(rules))


def _rules_by_chain(netfilter: NetlinkSocket, table: FoundTable) -> dict[str, list[model.Rule]]:
    """Return the rules of a table by chain: in words of iptables those that only iptables-nft writes."""
    family, is_filter = FAMILY_BY_NUMBER.get(table.family), _is_filter_of_iptables(table)
    find_set = set_finder(netfilter, table.family, table.name)
    known: dict[bytes, tuple[str, Fields]] = {}
    by_chain: dict[str, list[model.Rule]] = {}
    numbers: dict[str, int] = {}
    reader: RuleReader | None = None
    for attributes in read_rules(netfilter, table.family, table.name):
        fields = decode_fields(attributes)
        chain = decode_text(fields[nf.NFTA_RULE_CHAIN])
        in_chain = by_chain.setdefault(chain, [])
        number = numbers[chain] = numbers.get(chain, 0) + 1
        is_xt = any(each in attributes for each in XT_EXPRESSIONS)
        if family is not None and (is_xt or (is_filter and not any(each in attributes for each in SET_EXPRESSIONS))):
            from capture.backends.iptables.xt_decode import RuleReader  # another backend, which only this needs

            reader = reader or RuleReader(family)
            in_chain.append(reader.read(attributes).rule.replace(why="", counters=None, number=number))
        else:
            read = _model_rules(decode_rule(fields, Program(find_set, family), known), family)
            in_chain += [rule.replace(number=number) for rule in read]
    return by_chain


def _model_chain(chain: FoundChain, rules: dict[str, list[model.Rule]]) -> model.Chain:
    """Return a chain in the model's words; each of our names is that of a chain that is jumped to."""
    name = chain.name if chain.hook is not None else model_target(chain.name)
    return model.Chain(name, tuple(rules.get(chain.name, ())), chain.policy)


def _model_rules(native: NativeRule, family: Family | None) -> Iterator[model.Rule]:
    """Yield a rule of the model for each action, all with the words of the whole; the first has its counters."""
    words = described(*native.conditions, *native.actions)
    is_one_rule = len(native.actions) < 2 or any(isinstance(action, TproxyStatement) for action in native.actions)
    counters = native.counters
    for part in (native,) if is_one_rule else _rule_per_action(native):
        for case in _rule_per_case(part):
            (rule,) = lift_rules([case])
            yield rule.replace(why=words, counters=counters, family=rule.family or family)
            counters = None


def _rule_per_action(rule: NativeRule) -> Iterator[NativeRule]:
    """Yield a rule for each action, with all conditions before it; what a mark was before it was set is not known."""
    conditions: tuple[Condition, ...] = rule.conditions
    for part in rule.actions:
        if isinstance(part, model.Match) or (isinstance(part, Cases) and not part.cases[0][1]):
            conditions = (*conditions, part)
            continue
        yield rule.replace(conditions=conditions, actions=(part,))
        if isinstance(part, model.UnknownVerdict) and part.then is None:  # which may have been the last
            conditions = (*conditions, model.UnknownMatch(part.text))
        elif isinstance(part, model.SetMark | model.SaveMark | model.RestoreMark):
            conditions = tuple(
                model.UnknownMatch(described(known)) if getattr(known, "field", "") in MARK_FIELDS.values() else known
                for known in conditions
            )


def _rule_per_case(rule: NativeRule) -> Iterator[NativeRule]:
    """Yield a rule for each case of its sets and its map, of which a packet meets one at most; others as they are."""
    parts = (*rule.conditions, *(rule.actions if len(rule.actions) == 1 else ()))
    by_key = next((each for each in parts if isinstance(each, Cases)), None)
    if by_key is None:
        yield rule
        return
    fixed = tuple(each for each in rule.conditions if each is not by_key)
    for conditions, verdict in by_key.cases:
        yield from _rule_per_case(
            rule.replace(conditions=(*fixed, *conditions), actions=(verdict,) if verdict else rule.actions)
        )


def _iptables_base_chains(tables: list[FoundTable], first_own: int) -> Iterator[BaseChain]:
    from capture.backends.iptables import netlink  # another backend, which only this needs

    newer = {table.name for table in tables if table.handle >= first_own}
    return base_chains_of_iptables(netlink.IptablesNetlinkDriver().read(), lambda table: table not in newer)

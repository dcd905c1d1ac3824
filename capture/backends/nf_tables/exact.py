"""Whether the kernel holds exactly what we would write, to the byte: a quick "yes", or "look closer".

What comes back from the kernel is what was sent, in the same order of attributes, but for counters. So nothing has to
be decoded to see that all is well, which is how it nearly always is. Where a kernel does something of this differently,
or foreign chains are in our tables, the answer is "look closer", every time.
"""

from __future__ import annotations

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.expressions import COUNTER
from capture.backends.nf_tables.listing import chain_of, read_rules, read_tables, table_of
from capture.netlink.attributes import Fields, decode_fields, decode_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from capture.backends.nf_tables.listing import FoundChain, FoundFlavour
    from capture.backends.nf_tables.names import Hook
    from capture.netlink.nfnetlink import Change
    from capture.netlink.sockets import NetlinkSocket

    Sent = tuple[bytes, bytes | None]
    """The expressions of a rule, and its userdata."""

COUNTER_HEAD = COUNTER[: COUNTER.index(b"counter\0") + len(b"counter\0")]
"""The counter expression up to its name; what follows are its values."""


def has_exactly(netfilter: NetlinkSocket, flavour: FoundFlavour, messages: Iterable[Change]) -> bool:
    """Return whether the tables of a flavour have the chains and rules that messages make, and no others.

    In a dormant table there are none that packets meet.
    """
    chains: list[FoundChain] = []
    rules: dict[tuple[int, str], dict[bytes, list[Sent]]] = {}
    for change in messages:
        if change.kind == nf.NFT_MSG_NEWTABLE:
            rules[change.family, table_of(change.family, change.attributes).name] = {}
        elif change.kind == nf.NFT_MSG_NEWCHAIN:
            chains.append(chain_of(change.family, change.attributes))
        elif change.kind == nf.NFT_MSG_NEWRULE:
            fields = decode_fields(change.attributes)
            sent = fields[nf.NFTA_RULE_EXPRESSIONS], fields.get(nf.NFTA_RULE_USERDATA)
            of_table = rules[change.family, decode_text(fields[nf.NFTA_RULE_TABLE])]
            of_table.setdefault(fields[nf.NFTA_RULE_CHAIN], []).append(sent)
    live = [table for table in read_tables(netfilter) if table.flavour == flavour]
    return (
        {(table.family, table.name) for table in live} == rules.keys()
        and not any(table.is_dormant for table in live)
        and _hooks_and_policies(chain for table in live for chain in table.chains) == _hooks_and_policies(chains)
        and all(_are_same_rules(read_rules(netfilter, *table), desired) for table, desired in rules.items())
    )


def _hooks_and_policies(chains: Iterable[FoundChain]) -> dict[tuple[int, str, str], tuple[Hook | None, str | None]]:
    return {(chain.family, chain.table, chain.name): (chain.hook, chain.policy) for chain in chains}


def _are_same_rules(live: Iterable[bytes], desired: Mapping[bytes, Iterable[Sent]]) -> bool:
    """Return whether the rules of a table are the desired ones, in the order of each chain, and no others."""
    rest = {chain: iter(rules) for chain, rules in desired.items()}
    for attributes in live:
        fields = decode_fields(attributes)
        expected = next(rest.get(fields[nf.NFTA_RULE_CHAIN], iter(())), None)
        if expected is None or not _is_same_rule(fields, expected):
            return False
    return all(next(rules, None) is None for rules in rest.values())


def _is_same_rule(fields: Fields, sent: Sent) -> bool:
    """Return whether a rule came back as it was sent: the same expressions, but a counter of any value, and comment."""
    expressions = fields[nf.NFTA_RULE_EXPRESSIONS]
    before, counter, after = sent[0].partition(COUNTER)
    return (
        len(expressions) == len(sent[0])
        and expressions.startswith(before + COUNTER_HEAD if counter else before)
        and expressions.endswith(after)
        and fields.get(nf.NFTA_RULE_USERDATA) == sent[1]
    )

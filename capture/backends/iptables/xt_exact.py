"""Whether the kernel holds exactly what we would write, to the byte: a quick "yes", or "look closer".

What comes back from the kernel is what was sent, in the same order of attributes, but for counters. So nothing
has to be decoded to see that all is well, which is how it nearly always is. Where foreign chains are in the
same tables, the answer is always "look closer".
"""

from __future__ import annotations

from capture.backends.iptables.plan import TableView
from capture.backends.iptables.xt_encode import matches_of, verdict_of
from capture.backends.iptables.xt_messages import TableMessages
from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.exact import compared_of_chain, rule_is
from capture.model.ruleset import BUILT_IN_CHAINS, TABLES
from capture.netlink.attributes import attribute, decode_fields, decode_text, text
from capture.netlink.nfnetlink import NFPROTO_UNSPEC, read_objects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.model.addresses import Family
    from capture.model.ruleset import Rule, Ruleset, TableName
    from capture.netlink.sockets import NetlinkSocket

    Fields = dict[int, bytes]
    Chains = dict[tuple[int, str, str], Fields]
    """What is compared of chains, by the number of their family, table and name."""


def holds_exactly(netfilter: NetlinkSocket, desired: Ruleset) -> bool:
    """Return whether the tables of iptables are the desired ones, to the byte; False does not mean that they differ."""
    found = _found_chains(netfilter)
    if not found:
        return False
    views = [
        (family, table.name, TableView(desired, family, table.name))
        for family in desired.families
        for table in desired.tables
    ]
    wanted = {place: fields for family, table, view in views for place, fields in _wanted_chains(family, table, view)}
    return found == wanted and all(_rules_are(netfilter, family, table, view) for family, table, view in views)


def _found_chains(netfilter: NetlinkSocket) -> Chains:
    """Return the chains of our tables, foreign ones too."""
    chains: Chains = {}
    for number, attributes in read_objects(
        netfilter, nf.NFT_MSG_GETCHAIN, NFPROTO_UNSPEC, b"", "read the chains of nf_tables"
    ):
        fields = decode_fields(attributes)
        table = decode_text(fields[nf.NFTA_CHAIN_TABLE])
        if number in nf.FAMILIES and table in TABLES:
            chains[number, table, decode_text(fields[nf.NFTA_CHAIN_NAME])] = compared_of_chain(fields)
    return chains


def _wanted_chains(family: Family, table: TableName, view: TableView) -> Iterator[tuple[tuple[int, str, str], Fields]]:
    """Yield the chains of one table that ``write`` makes."""
    say = TableMessages(family, table)
    used = [chain for chain in BUILT_IN_CHAINS[table] if view.rules(chain)]
    for chain in (*used, *view.our_chains()):
        yield (
            (nf.FAMILY_NUMBERS[family], table, chain),
            compared_of_chain(decode_fields(say.add_chain(chain).attributes)),
        )


def _rules_are(netfilter: NetlinkSocket, family: Family, table: TableName, view: TableView) -> bool:
    """Return whether the rules of one table are the wanted ones, in the order of each chain."""
    expected = {chain.name: iter(view.rules(chain.name)) for chain in view.chains()}
    if not any(view.rules(chain) for chain in expected):
        return True
    of_table = attribute(nf.NFTA_RULE_TABLE, text(table))
    doing = f"read the rules of table {nf.TABLE_FAMILIES[family]} {table}"
    for _, attributes in read_objects(netfilter, nf.NFT_MSG_GETRULE, nf.FAMILY_NUMBERS[family], of_table, doing):
        fields = decode_fields(attributes)
        wanted = next(expected.get(decode_text(fields[nf.NFTA_RULE_CHAIN]), iter(())), None)
        if wanted is None or not _rule_is(wanted, family, fields):
            return False
    return all(next(rest, None) is None for rest in expected.values())


def _rule_is(wanted: Rule, family: Family, found: Fields) -> bool:
    """Return whether a rule came back as it was sent: matches, a counter of any value, a verdict."""
    before, after = matches_of(wanted, family), verdict_of(wanted, family)
    return rule_is(found, before, after)

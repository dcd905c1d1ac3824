"""Whether the kernel holds exactly what we would write, to the byte: a quick "yes", or "look closer".

What comes back from the kernel is what was sent, in the same order of attributes, but for counters. So nothing has to
be decoded to see that all is well, which is how it nearly always is. Where a kernel does something of this differently,
or foreign chains are in our tables, the answer is "look closer", every time.
"""

from __future__ import annotations

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.expressions import COUNTER
from capture.backends.nf_tables.listing import read_chains, read_rules
from capture.netlink.attributes import attribute, decode_fields, decode_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from capture.netlink.batch import Change
    from capture.netlink.sockets import NetlinkSocket

    Fields = dict[int, bytes]
    Expected = tuple[bytes, bytes, bytes]
    """The expressions of a rule before its counter, those after it, and its comment."""

COMPARED_OF_CHAIN = (nf.NFTA_CHAIN_HOOK, nf.NFTA_CHAIN_TYPE, nf.NFTA_CHAIN_POLICY)

COUNTER_HEAD = COUNTER[: COUNTER.index(b"counter\0") + len(b"counter\0")]
"""The counter expression up to its name; what follows are its values."""


def chains_are(
    netfilter: NetlinkSocket, families: Collection[int], tables: Collection[str], desired: Iterable[Change]
) -> bool:
    """Return whether these tables of these families have the chains that messages make, and no others."""
    found = {
        (number, table, fields[nf.NFTA_CHAIN_NAME]): _compared(fields)
        for number, fields in read_chains(netfilter)
        if number in families and (table := decode_text(fields[nf.NFTA_CHAIN_TABLE])) in tables
    }
    expected = {}
    for change in desired:
        fields = decode_fields(change.attributes)
        place = change.family, decode_text(fields[nf.NFTA_CHAIN_TABLE]), fields[nf.NFTA_CHAIN_NAME]
        expected[place] = _compared(fields)
    return found == expected


def _compared(chain: Fields) -> Fields:
    return {kind: chain[kind] for kind in COMPARED_OF_CHAIN if kind in chain}


def rules_are(netfilter: NetlinkSocket, family: int, table: str, desired: Mapping[str, Iterable[Expected]]) -> bool:
    """Return whether a table holds the desired rules, in the order of each chain, and no others."""
    rest = {chain: iter(rules) for chain, rules in desired.items()}
    for attributes in read_rules(netfilter, family, table):
        found = decode_fields(attributes)
        expected = next(rest.get(decode_text(found[nf.NFTA_RULE_CHAIN]), iter(())), None)
        if expected is None or not _rule_is(found, *expected):
            return False
    return all(next(rules, None) is None for rules in rest.values())


def _rule_is(found: Fields, before: bytes, after: bytes, userdata: bytes) -> bool:
    """Return whether a rule came back as it was sent: these expressions, a counter of any value, those, a comment."""
    expressions = found[nf.NFTA_RULE_EXPRESSIONS]
    comment = attribute(nf.NFTA_RULE_USERDATA, found[nf.NFTA_RULE_USERDATA]) if nf.NFTA_RULE_USERDATA in found else b""
    return (
        len(expressions) == len(before) + len(COUNTER) + len(after)
        and expressions.startswith(before + COUNTER_HEAD)
        and expressions.endswith(after)
        and comment == userdata
    )

"""Chains of others on the way that our packets take: what stands before ours and may take them away.

Tables of nf_tables do not know of each other, but at each place of a packet's path their base chains are
entered in the order of their priorities; those of iptables-nft are among them::

    output     ip theirs first, -200   ->   our nat output, -100   ->   inet theirs last, 0
               drop: it is gone             redirect to the proxy       of no concern for the capture
               accept: it goes on
"""

from __future__ import annotations

from capture.backends.nftables import constants as nf
from capture.backends.nftables.decode import NativeSet, decode_hook, decode_table
from capture.backends.nftables.lift import lift_rules
from capture.backends.nftables.names import MODEL_TABLES, Hook
from capture.backends.nftables.native import NFPROTO_NUMBERS
from capture.backends.nftables.text import described
from capture.model import Accept, Continue, Log, RestoreMark, Return, SaveMark, SetMark
from capture.netlink.attributes import attribute, decode_fields, decode_text, text
from capture.netlink.nfnetlink import open_netfilter, read_objects
from capture.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from capture.addresses import Family
    from capture.model import Rule
    from capture.netlink.sockets import NetlinkSocket

FAMILY_WORDS = {nf.NFPROTO_INET: "inet", NFPROTO_NUMBERS["ipv4"]: "ip", NFPROTO_NUMBERS["ipv6"]: "ip6"}
FAMILIES: dict[int, Family] = {number: family for family, number in NFPROTO_NUMBERS.items()}
PLACES = ("prerouting", "output")

HARMLESS = (Accept, Return, Continue, Log, SetMark, SaveMark, RestoreMark)
"""Verdicts after which a packet still comes to the chains behind this one."""


class ForeignRule(Value):
    """A rule of somebody else, and its words in the manner of nft(8)."""

    rule: Rule
    words: str


class ForeignChain(Value):
    """A base chain of somebody else: ``family`` is ip, ip6 or inet."""

    family: str
    table: str
    name: str
    hook: Hook
    policy: str
    rules: tuple[ForeignRule, ...]

    @property
    def takes_away(self) -> bool:
        """Whether packets may not come to the chains behind this one."""
        return self.policy != "accept" or any(self.takers())

    def is_before(self, ours: Hook) -> bool:
        """Return whether packets come here first. Of two with one priority nobody knows: it may be so."""
        return self.hook.place == ours.place and self.hook.priority <= ours.priority

    def takers(self) -> Iterator[ForeignRule]:
        """Yield the rules that may keep packets from the chains behind this one."""
        for rule in self.rules:
            if not isinstance(rule.rule.verdict, HARMLESS):
                yield rule


def read_foreign_chains() -> tuple[ForeignChain, ...]:
    """Return the base chains of others at prerouting and output, in the order in which packets meet them."""
    with open_netfilter() as netfilter:
        chains = [chain for family in FAMILY_WORDS for chain in _of_family(netfilter, family)]
    return tuple(sorted(chains, key=lambda chain: (chain.hook.place, chain.hook.priority)))


def _of_family(netfilter: NetlinkSocket, family: int) -> Iterator[ForeignChain]:
    by_table: dict[bytes, list[bytes]] = {}
    for _, chain in read_objects(netfilter, nf.NFT_MSG_GETCHAIN, family, b"", "read the chains of nf_tables"):
        fields = decode_fields(chain)
        hook = decode_hook(fields)
        if hook is not None and hook.place in PLACES and not _is_ours(family, fields[nf.NFTA_CHAIN_TABLE]):
            by_table.setdefault(fields[nf.NFTA_CHAIN_TABLE], []).append(chain)
    for table, chains in by_table.items():
        yield from _of_table(netfilter, family, decode_text(table), chains)


def _is_ours(family: int, table: bytes) -> bool:
    return family == nf.NFPROTO_INET and decode_text(table) in MODEL_TABLES


def _of_table(netfilter: NetlinkSocket, family: int, name: str, chains: Iterable[bytes]) -> Iterator[ForeignChain]:
    of_table = attribute(nf.NFTA_RULE_TABLE, text(name))
    doing = f"read the rules of table {FAMILY_WORDS[family]} {name}"
    rules = read_objects(netfilter, nf.NFT_MSG_GETRULE, family, of_table, doing)
    itself = attribute(nf.NFTA_TABLE_NAME, text(name))
    table = decode_table(itself, chains, [rule for _, rule in rules], _unread_set, FAMILIES.get(family))
    for chain in table.chains:
        if chain.hook is not None:
            words = [described(*rule.conditions, *rule.actions) for rule in chain.rules]
            lifted = [_for_family(next(lift_rules([rule])), FAMILIES.get(family)) for rule in chain.rules]
            yield ForeignChain(
                FAMILY_WORDS[family],
                name,
                chain.name,
                chain.hook,
                chain.policy or "accept",
                tuple(map(ForeignRule, lifted, words)),
            )


def _for_family(rule: Rule, family: Family | None) -> Rule:
    """Return a rule with the family that its table is for."""
    return rule if rule.family or family is None else rule.replace(family=family)


def _unread_set(_name: str) -> NativeSet:
    """Return a set that is not understood, so that a rule names it instead of listing what is in it."""
    return NativeSet(0, 0, (), (), understood=False)

"""A rule as nf_tables sees it: fields that are compared, then things that are done. Values only.

The step between the model and the two ways to write nf_tables (bytes, text), so that each of
them only has to spell a dozen words::

    model     Rule(Redirect(15001), (Protocol("tcp"), Destination(10.0.0.0/8)), IPV4)
    native    l4proto 6, nfproto 2, ip daddr 10.0.0.0-10.255.255.255, counter, Redirect(15001)
    bytes     meta load l4proto => reg 1, cmp eq reg 1 6, meta load nfproto ...

``lower`` makes native rules of the model's, ``lift`` is its inverse.
"""

from __future__ import annotations

from capture.backends.nf_tables import constants as nf
from capture.model import ruleset as model
from capture.model.addresses import BITS, IPV4, IPV6, Family
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.backends.nf_tables.names import Hook

    Range = tuple[int, int]

# Fields, in the words of nft(8). Those of ports include the protocol.
NFPROTO = "meta nfproto"
L4PROTO = "meta l4proto"
IIFNAME = "iifname"
OIFNAME = "oifname"
SKUID = "meta skuid"
SKGID = "meta skgid"
MARK = "meta mark"
CT_MARK = "ct mark"
CT_STATE = "ct state"
SADDR: dict[Family, str] = {IPV4: "ip saddr", IPV6: "ip6 saddr"}
DADDR: dict[Family, str] = {IPV4: "ip daddr", IPV6: "ip6 daddr"}
SPORT: dict[model.ProtocolName, str] = {"tcp": "tcp sport", "udp": "udp sport"}
DPORT: dict[model.ProtocolName, str] = {"tcp": "tcp dport", "udp": "udp dport"}

ADDRESS_FAMILIES: dict[str, Family] = {field: family for fields in (SADDR, DADDR) for family, field in fields.items()}
PORT_PROTOCOLS: dict[str, model.ProtocolName] = {
    field: protocol for fields in (SPORT, DPORT) for protocol, field in fields.items()
}

# What nf_tables calls them.
META_KEYS = {
    NFPROTO: nf.NFT_META_NFPROTO,
    L4PROTO: nf.NFT_META_L4PROTO,
    IIFNAME: nf.NFT_META_IIFNAME,
    OIFNAME: nf.NFT_META_OIFNAME,
    SKUID: nf.NFT_META_SKUID,
    SKGID: nf.NFT_META_SKGID,
    MARK: nf.NFT_META_MARK,
}
CT_KEYS = {CT_MARK: nf.NFT_CT_MARK, CT_STATE: nf.NFT_CT_STATE}

# Which field a match of the model is about.
ADDRESS_FIELDS: dict[type, dict[Family, str]] = {model.Source: SADDR, model.Destination: DADDR}
PORT_FIELDS: dict[type, dict[model.ProtocolName, str]] = {model.SourcePort: SPORT, model.DestinationPort: DPORT}
ID_FIELDS: dict[type, str] = {model.OwnerUid: SKUID, model.OwnerGid: SKGID}
MARK_FIELDS: dict[type, str] = {model.Mark: MARK, model.ConnectionMark: CT_MARK}
INTERFACE_FIELDS: dict[type, str] = {model.InInterface: IIFNAME, model.OutInterface: OIFNAME}

CT_STATE_BITS = {"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "UNTRACKED": 64}
"""linux/netfilter/nf_conntrack_common.h, NF_CT_STATE_BIT."""

OFFSETS = {SADDR[family]: offset for family, offset in nf.SOURCE_OFFSETS.items()}
OFFSETS |= {DADDR[family]: offset for family, offset in nf.DESTINATION_OFFSETS.items()}
OFFSETS |= dict.fromkeys(SPORT.values(), 0) | dict.fromkeys(DPORT.values(), 2) | {L4PROTO: 9}
"""Where fields are in their header; the protocol only in that of IPv4 (RFC 791 3.1), in IPv6 others may come first."""

FIELD_SIZES = {NFPROTO: 1, L4PROTO: 1, SKUID: 4, SKGID: 4, MARK: 4, CT_MARK: 4, CT_STATE: 4}
FIELD_SIZES |= dict.fromkeys((*SPORT.values(), *DPORT.values()), 2)
FIELD_SIZES |= {field: BITS[family] // 8 for field, family in ADDRESS_FAMILIES.items()}

HOST_ORDER = frozenset((SKUID, SKGID, MARK, CT_MARK, CT_STATE))
"""Fields that lie in a register in the byte order of the machine."""


def is_network(first: int, last: int) -> bool:
    """Return whether a range of addresses is all that share a prefix."""
    size = last - first + 1
    return size & (size - 1) == 0 and first & (size - 1) == 0


class Among(model.Match):
    """The field is one of these numbers, given as sorted ranges that do not touch."""

    field: str
    ranges: tuple[Range, ...]
    negated: bool = False

    @property
    def is_single(self) -> bool:
        """Return whether it compares with a single number."""
        return len(self.ranges) == 1 and self.ranges[0][0] == self.ranges[0][1]


class Masked(model.Match):
    """The bits of ``mask`` in the field are ``value``."""

    field: str
    mask: int
    value: int
    negated: bool = False


class Named(model.Match):
    """The interface has this name, or one that begins with it."""

    field: str
    name: str
    has_any_ending: bool = False
    negated: bool = False


class TproxyStatement(model.Verdict):
    """Give the packet to the local socket on this port; without one, break off the rule (nft_tproxy.c)."""

    port: int
    family: Family | None = None


class Cases(Value):
    """Several cases that exclude each other, each with its conditions: of a map with a verdict, of a set with none."""

    text: str
    cases: tuple[tuple[tuple[Condition, ...], Action | None], ...]


if TYPE_CHECKING:
    Condition = model.Match | Cases
    Action = model.Verdict | Cases


class NativeRule(Value):
    """If all conditions hold, count, then do the actions in order. Jumps name chains as nf_tables does.

    Foreign rules may have further conditions among the actions, which are for those behind them.
    """

    conditions: tuple[Condition, ...]
    actions: tuple[Action | Condition, ...]
    counters: model.Counters | None = None
    comment: str = ""


class NativeChain(Value):
    """A chain; with a hook it is a base chain and has a policy, "ACCEPT" or "DROP"."""

    name: str
    rules: tuple[NativeRule, ...]
    hook: Hook | None = None
    policy: str | None = None


class NativeTable(Value):
    """A table of family inet. A dormant one is there and does nothing."""

    name: str
    chains: tuple[NativeChain, ...]
    dormant: bool = False

"""A rule as nf_tables sees it: fields that are compared, then things that are done. Values only.

The step between the model and the three ways to write nf_tables (bytes, text, JSON), so that each of
them only has to spell a dozen words::

    model     Rule(Redirect(15001), (Protocol("tcp"), Destination(10.0.0.0/8)), IPV4)
    native    l4proto 6, nfproto 2, ip daddr 10.0.0.0-10.255.255.255, counter, Redirect(15001)
    bytes     meta load l4proto => reg 1, cmp eq reg 1 6, meta load nfproto ...

``lower`` makes native rules of the model's, ``lift`` is its inverse.
"""

from __future__ import annotations

from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.backends.nf_tables.hooks import Hook
    from capture.model.addresses import Family
    from capture.model.ruleset import (
        Accept,
        Counters,
        Drop,
        Jump,
        Log,
        ProtocolName,
        Redirect,
        RestoreMark,
        Return,
        SaveMark,
        SetMark,
        SetZone,
        UnknownMatch,
        UnknownVerdict,
    )

    Range = tuple[int, int]

# Fields, in the words of nft(8). Those of ports also say which protocol's.
NFPROTO = "meta nfproto"
L4PROTO = "meta l4proto"
IIFNAME = "iifname"
OIFNAME = "oifname"
SKUID = "meta skuid"
SKGID = "meta skgid"
MARK = "meta mark"
CT_MARK = "ct mark"
CT_STATE = "ct state"
SADDR: dict[Family, str] = {"ipv4": "ip saddr", "ipv6": "ip6 saddr"}
DADDR: dict[Family, str] = {"ipv4": "ip daddr", "ipv6": "ip6 daddr"}
SPORT: dict[ProtocolName, str] = {"tcp": "tcp sport", "udp": "udp sport"}
DPORT: dict[ProtocolName, str] = {"tcp": "tcp dport", "udp": "udp dport"}

ADDRESS_FAMILIES: dict[str, Family] = {field: family for fields in (SADDR, DADDR) for family, field in fields.items()}
PORT_PROTOCOLS: dict[str, ProtocolName] = {
    field: protocol for fields in (SPORT, DPORT) for protocol, field in fields.items()
}

NFPROTO_NUMBERS: dict[Family, int] = {"ipv4": 2, "ipv6": 10}  # linux/netfilter.h
PROTOCOL_NUMBERS: dict[ProtocolName, int] = {"tcp": 6, "udp": 17}  # linux/in.h

STATE_BITS = {"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "UNTRACKED": 64}
"""linux/netfilter/nf_conntrack_common.h, NF_CT_STATE_BIT."""


def is_network(first: int, last: int) -> bool:
    """Return whether a range of addresses is all that share a prefix."""
    size = last - first + 1
    return size & (size - 1) == 0 and first & (size - 1) == 0


class Among(Value):
    """The field is one of these numbers, given as sorted ranges that do not touch."""

    field: str
    ranges: tuple[Range, ...]
    negated: bool = False

    @property
    def is_single(self) -> bool:
        """Whether it compares with a single number."""
        return len(self.ranges) == 1 and self.ranges[0][0] == self.ranges[0][1]


class Masked(Value):
    """The bits of ``mask`` in the field are ``value``."""

    field: str
    mask: int
    value: int
    negated: bool = False


class Named(Value):
    """The interface has this name, or one that begins with it."""

    field: str
    name: str
    any_ending: bool = False
    negated: bool = False


class Proxy(Value):
    """Give the packet to the local socket on this port; without one, break off the rule (nft_tproxy.c)."""

    port: int
    family: Family | None = None


if TYPE_CHECKING:
    Condition = Among | Masked | Named | UnknownMatch
    Action = (
        Accept
        | Drop
        | Return
        | Jump
        | Redirect
        | Proxy
        | SetMark
        | SaveMark
        | RestoreMark
        | SetZone
        | Log
        | UnknownVerdict
    )


class NativeRule(Value):
    """If all conditions hold, count, then do the actions in order. Jumps name chains as nf_tables does."""

    conditions: tuple[Condition, ...]
    actions: tuple[Action, ...]
    counters: Counters | None = None
    comment: str = ""


class NativeChain(Value):
    """A chain; with a hook it is a base chain and has a policy, "accept" or "drop"."""

    name: str
    rules: tuple[NativeRule, ...]
    hook: Hook | None = None
    policy: str | None = None


class NativeTable(Value):
    """A table of family inet. A dormant one is there and does nothing.

    ``has_more``: it holds sets of a name, or objects, which we never write. Not every reader looks for them.
    """

    not_compared = ("has_more",)

    name: str
    chains: tuple[NativeChain, ...]
    dormant: bool = False
    has_more: bool = False

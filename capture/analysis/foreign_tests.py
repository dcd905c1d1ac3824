"""Tests of foreign rules that the model lacks: whether each holds for all packets of a kind, or for none. Pure.

All return None where neither is certain, or the test is of another kind.
"""

from __future__ import annotations

from capture.model.foreign import ConnectionDirection, IcmpType, Protocols, States, TcpFlags, TranslatedConnection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.model.ruleset import Match, ProtocolName


FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << index for index in range(8))  # RFC 9293 3.1
FLAGS_BY_STATE = {
    "NEW": (SYN, SYN | ECE | CWR),
    "ESTABLISHED": tuple(
        flags | more for flags in (SYN | ACK, ACK, PSH | ACK, FIN | ACK, RST, RST | ACK, ACK | URG) for more in (0, ECE)
    ),
}
FLAGS_BY_STATE["RELATED"] = FLAGS_BY_STATE["NEW"]
"""Flags of the packets of a TCP connection; all others are INVALID (tcp_valid_flags in nf_conntrack_proto_tcp.c).

A connection whose beginning the kernel did not see may be NEW with others, which is nothing that a pod begins."""


def holds_for_protocol(test: Match | None, protocol: ProtocolName, port: int = 0) -> bool | None:
    """Return whether a test of the protocol holds for one, or a test of ICMPv6's type, which is its port."""
    if isinstance(test, IcmpType) and protocol == "ipv6-icmp":
        return (port == test.number) != test.negated
    return (protocol in test.names) != test.negated if isinstance(test, Protocols) else None


def holds_for_flags(test: Match | None, state: str, known: int | None = None) -> bool | None:
    """Return whether a test of TCP's flags holds for the packets in a state. Known flags are tested alone."""
    if not isinstance(test, TcpFlags):
        return None
    possible = FLAGS_BY_STATE.get(state, ()) if known is None else (known,)
    answers = {(flags & test.mask == test.value) != test.negated for flags in possible}
    return answers.pop() if len(answers) == 1 else None


def holds_for_connection(test: Match | None, state: str, *, is_translated: bool) -> bool | None:
    """Return whether a test of a connection holds for packets in a state that nat has translated, or not.

    A later packet may be a reply, and of a translated connection, unless nat has translated this one. Without a
    connection nothing holds but the state (conntrack_mt in xt_conntrack.c, nft_ct_get_eval in nft_ct.c).
    """
    is_known = is_translated or state != "ESTABLISHED"
    is_missing = state in ("INVALID", "UNTRACKED")
    match test:
        case ConnectionDirection(is_reply):
            return (not is_reply and not is_missing) if is_known else None
        case TranslatedConnection(negated):
            return (is_translated != negated and not is_missing) if is_known else None
        case States(names, negated):
            if state in names or (is_translated and not is_missing and "DNAT" in names):
                return not negated
            may_be = "SNAT" in names or ("DNAT" in names and not is_known)
            return None if may_be and not is_missing else negated
    return None

"""Matches that the model lacks about a connection: its direction, and whether nat has changed where it goes. Pure."""

from __future__ import annotations

import re
from sys import byteorder

STATUS = re.compile(r"ct status & 0x(\w+) \^ 0x0+ (==|!=) 0x0+$")
MAPPED = (1 << 5).to_bytes(4, byteorder).hex()  # IPS_DST_NAT in linux/netfilter/nf_conntrack_common.h
STATES = re.compile(r"-m conntrack (! )?--ctstate (\S+)$")
DIRECTIONS = {
    **dict.fromkeys(("-m conntrack --ctdir ORIGINAL", "ct direction == 0x00", "ct direction != 0x01"), True),
    **dict.fromkeys(("-m conntrack --ctdir REPLY", "ct direction == 0x01", "ct direction != 0x00"), False),
}


def holds_for_connection(words: str, state: str, *, is_translated: bool) -> bool | None:
    """Return whether a test of a connection holds for packets in a state that nat has translated, or not; else None.

    A later packet may be a reply, and of a translated connection, unless nat has translated this one. Without a
    connection nothing holds but the state (conntrack_mt in xt_conntrack.c, nft_ct_get_eval in nft_ct.c).
    """
    status, states = STATUS.match(words), STATES.match(words)
    is_known = is_translated or state != "ESTABLISHED"
    is_missing = state in ("INVALID", "UNTRACKED")
    if words in DIRECTIONS:
        return (DIRECTIONS[words] and not is_missing) if is_known else None
    if status is not None and status[1] == MAPPED:
        return (is_translated == (status[2] == "!=") and not is_missing) if is_known else None
    if states is None:
        return None
    named = {*states[2].split(",")}
    if state in named or (is_translated and not is_missing and "DNAT" in named):
        return not states[1]
    may_be = "SNAT" in named or ("DNAT" in named and not is_known)
    return None if may_be and not is_missing else bool(states[1])

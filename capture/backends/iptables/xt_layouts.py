"""Matches and targets of iptables as the kernel's C structures, described once for both ways. Pure.

nf_tables carries them as they are ("compat": a name, a revision, a blob), so these are the very structures of
x_tables, padded to a multiple of 8 bytes (XT_ALIGN in linux/netfilter/x_tables.h; 4 on 32-bit x86 alone, which no mesh
runs on).

A revision is a version of the structure. We use those that iptables 1.8.9 takes on any kernel since 4.18;
what older releases of iptables wrote is read too (``xt_text``).
"""

from __future__ import annotations

from capture.netlink.attributes import Layout

OWNER = Layout("uid_min 4, uid_max 4, gid_min 4, gid_max 4, match 1, invert 1")
"""linux/netfilter/xt_owner.h, struct xt_owner_match_info."""
OWNER_UID, OWNER_GID, OWNER_SOCKET = 1, 2, 4  # XT_OWNER_*

MULTIPORT = Layout("kind 1, count 1, ports [30], is_range [15], invert 1")
"""linux/netfilter/xt_multiport.h, struct xt_multiport_v1: 15 ports; after one that begins a range comes its end."""
MULTIPORT_SOURCE, MULTIPORT_DESTINATION = 0, 1  # XT_MULTIPORT_*

MARK_MATCH = Layout("mark 4, mask 4, invert 1")
"""linux/netfilter/xt_mark.h and xt_connmark.h, struct xt_mark_mtinfo1 and xt_connmark_mtinfo1."""

CONNTRACK = Layout(
    "addresses [128], expires [8], protocol 2, ports [8], match_flags 2, invert_flags 2, state_mask 2, status_mask 2,"
    " ports_to [8]"
)
"""linux/netfilter/xt_conntrack.h, struct xt_conntrack_mtinfo3; revision 2 lacks the ports at the end."""
CONNTRACK_1 = Layout("other [146], match_flags 2, invert_flags 2, state_mask 1, status_mask 1")
"""struct xt_conntrack_mtinfo1."""
CONNTRACK_STATE = 1  # XT_CONNTRACK_STATE
XT_STATE_BITS = {"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "UNTRACKED": 256}  # XT_CONNTRACK_STATE_*

IPRANGE = Layout("src_min [16], src_max [16], dst_min [16], dst_max [16], flags 1")
"""linux/netfilter/xt_iprange.h, struct xt_iprange_mtinfo: an IPv4 address is in the first 4 bytes."""
IPRANGE_SOURCE, IPRANGE_DESTINATION = 1, 2  # IPRANGE_SRC, IPRANGE_DST
IPRANGE_NEGATED = 4  # bits to shift by, to IPRANGE_SRC_INV, IPRANGE_DST_INV

COMMENT = Layout("comment [256]")
"""linux/netfilter/xt_comment.h, struct xt_comment_info."""

NAT_IPV4 = Layout("rangesize 4, flags 4, min_ip [4], max_ip [4], min_port >2, max_port >2")
"""linux/netfilter/nf_nat.h, struct nf_nat_ipv4_multi_range_compat."""
NAT_RANGE = Layout("flags 4, min_ip [16], max_ip [16], min_port >2, max_port >2")
"""linux/netfilter/nf_nat.h, struct nf_nat_range, and nf_nat_range2 as far as it goes."""
NAT_PORTS = 2  # NF_NAT_RANGE_PROTO_SPECIFIED

TPROXY = Layout("mask 4, mark 4, address [16], port >2")
"""linux/netfilter/xt_TPROXY.h, struct xt_tproxy_target_info_v1."""

MARK_TARGET = Layout("mark 4, mask 4")
"""linux/netfilter/xt_mark.h, struct xt_mark_tginfo2."""

CONNMARK = Layout("ctmark 4, ctmask 4, nfmask 4, shift_dir 1, shift_bits 1, mode 1")
"""linux/netfilter/xt_connmark.h, struct xt_connmark_tginfo2."""
CONNMARK_1 = Layout("ctmark 4, ctmask 4, nfmask 4, mode 1")
"""struct xt_connmark_tginfo1, which kernels before 4.18 have."""
CONNMARK_SAVE, CONNMARK_RESTORE = 1, 2  # XT_CONNMARK_SAVE, XT_CONNMARK_RESTORE

CT = Layout("flags 2, zone 2, ct_events 4, exp_events 4, helper [16], timeout [32], gap [4], pointer [8]")
"""linux/netfilter/xt_CT.h, struct xt_ct_target_info_v1; the pointer is the kernel's."""

LOG = Layout("level 1, flags 1, prefix [30]")
"""linux/netfilter/xt_LOG.h, struct xt_log_info."""
LOG_WARNING = 4  # LOG_WARNING of syslog(3), which iptables writes by default

WRITTEN: dict[str, tuple[int, Layout]] = {
    "owner": (1, OWNER),
    "multiport": (1, MULTIPORT),
    "connmark": (1, MARK_MATCH),
    "conntrack": (3, CONNTRACK),
    "iprange": (1, IPRANGE),
    "comment": (0, COMMENT),
    "REDIRECT": (0, NAT_RANGE),
    "TPROXY": (1, TPROXY),
    "MARK": (2, MARK_TARGET),
    "CONNMARK": (2, CONNMARK),
    "CT": (2, CT),
    "LOG": (0, LOG),
}
"""The matches, in lower case, and the targets that we write: the revision, and its structure."""


def c_string(text: str, size: int, name: str) -> bytes:
    """Return text as bytes that leave room for a NUL. Raise ValueError if it does not fit."""
    encoded = text.encode("utf-8", "surrogateescape")
    if len(encoded) >= size or b"\0" in encoded:
        raise ValueError(f"{name} has at most {size - 1} bytes and no NUL: {text!r}")
    return encoded

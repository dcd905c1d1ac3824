"""Matches and targets of x_tables in the words of iptables-save. Pure; ``parse`` knows what they mean.

So every driver reads a rule alike, our own or foreign. What has no words here is shown by name and
bytes: ``-m recent [ revision 1, 0x0102 ]``.
"""

from __future__ import annotations

from capture.backends.iptables import xt_layouts
from capture.backends.iptables.expansion import MULTIPORT_SLOTS, bits_text, ports_text
from capture.backends.iptables.render import option_text, quoted
from capture.model.addresses import BITS, IPV4, IPV6, Family, address_text, networks_in_range
from capture.model.conventions import ADDRESS_TYPES
from capture.model.ruleset import Span
from capture.netlink.attributes import BYTE_ORDER, Layout, decode_number, decode_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from capture.netlink.attributes import Unpacked

    Speak = Callable[[Unpacked, Family], str | None]
    """Return the options of a match or target; None where we have no words for it."""

MAX_SHOWN_BYTES = 16
"""Bytes that are shown of a match without words."""
XT_PROTOCOL_NAMES = {
    1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 33: "dccp", 41: "ipv6", 47: "gre", 50: "esp", 51: "ah",
    58: "ipv6-icmp", 132: "sctp", 136: "udplite",
}  # fmt: skip
"""As protocols(5) has them, without a look at the host's /etc/protocols."""


def protocol_text(number: int, *, negated: int) -> str:
    """Return ``-p icmp``, ``! -p tcp``, ``-p 99``."""
    return option_text(negated, "-p", XT_PROTOCOL_NAMES.get(number, number))


def network_text(name: str, family: Family, address: int, mask: int, *, negated: int) -> str:
    """Return ``-d 10.0.0.0/8``, or ``-d 10.0.1.0/255.0.255.0`` for a mask that is no prefix."""
    prefix = mask.bit_count()
    is_prefix = mask == ((1 << prefix) - 1) << (BITS[family] - prefix)
    shown = prefix if is_prefix else address_text(family, mask)
    return option_text(negated, name, f"{address_text(family, address)}/{shown}")


def extension_text(name: str, revision: int, structure: bytes, family: Family) -> str:
    """Return the words for a match or a target; they begin with its name."""
    words = None
    if (name, revision) in EXTENSION_TEXTS:
        layout, speak = EXTENSION_TEXTS[name, revision]
        if layout is xt_layouts.NAT_RANGE and revision == 0 and family == IPV4:
            layout = xt_layouts.NAT_IPV4
        words = speak(layout.read(structure), family)
    if words is None:
        data = _bytes_text(structure)
        words = f"[ revision {revision}, {data} ]" if data else f"[ revision {revision} ]"
    return f"{name} {words}".rstrip()


def _bytes_text(structure: bytes) -> str:
    """Return bytes in hexadecimal without the zeros at the end; of many the first, and what tells them from others.

    Of many, the names in them as well: of a list of addresses (recent), a counter (hashlimit), a file (bpf).
    """
    data = structure.rstrip(b"\0")
    if len(data) <= MAX_SHOWN_BYTES:
        return f"0x{data.hex()}" if data else ""
    import re  # few pods have such rules; one of u32 has 2 KB
    from binascii import crc32

    names = "".join(f"{name.decode()}, " for name in re.findall(rb"[\w./-]{3,}(?=\0)", structure))
    return f"{names}0x{data[:MAX_SHOWN_BYTES].hex()}... ({len(structure)} bytes, CRC {crc32(structure):08x})"


def _packed_address_text(field: bytes, family: Family) -> str:
    return address_text(family, int.from_bytes(field[: BITS[family] // 8], "big"))


ANY_PORT = (0, 0xFFFF)


def _port_options(fields: Unpacked) -> list[str]:
    """Return ``--sport 1:2 ! --dport 80`` of the ports that are tested; XT_TCP_INV_SRCPT is 1, _DSTPT is 2."""
    inverted = fields["invert"]
    ends = (("--sport", fields["sport"], fields["sport_to"], 1), ("--dport", fields["dport"], fields["dport_to"], 2))
    return [
        option_text(inverted & bit, name, ports_text([Span(first, last)]))
        for name, first, last, bit in ends
        if inverted & bit or (first, last) != ANY_PORT
    ]


def _tcp_text(fields: Unpacked, _family: Family) -> str:
    """``--sport 1:2 --dport 80 --tcp-option 5 --tcp-flags SYN,ACK SYN`` (libxt_tcp.c)."""
    words, inverted = _port_options(fields), fields["invert"]
    if fields["option"]:
        words.append(option_text(inverted & 8, "--tcp-option", fields["option"]))
    if fields["flags_mask"] or inverted & 4:
        words.append(tcp_flags_text(fields["flags_mask"], fields["flags"], negated=bool(inverted & 4)))
    return " ".join(words)


TCP_FLAG_NAMES = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")  # RFC 9293 3.1, from the lowest bit


def tcp_flags_text(mask: int, compared: int, *, negated: bool) -> str:
    """Return ``--tcp-flags SYN,ACK SYN``: which flags are looked at, and which of them must be set."""
    return f"{option_text(negated, '--tcp-flags', _flag_names(mask))} {_flag_names(compared)}"


def _flag_names(bits: int) -> str:
    return ",".join(name for index, name in enumerate(TCP_FLAG_NAMES) if bits >> index & 1) or "NONE"


def _icmp_text(fields: Unpacked, family: Family) -> str:
    code = "" if (fields["code"], fields["code_to"]) == (0, 0xFF) else f"/{fields['code']}"
    value = "any" if fields["type"] == 0xFF else f"{fields['type']}{code}"
    return option_text(fields["invert"] & 1, "--icmp-type" if family == IPV4 else "--icmpv6-type", value)


def _addrtype_text(fields: Unpacked, _family: Family) -> str:
    flags = fields["flags"]
    words = []
    for name, types, bit in (("--src-type", fields["source"], 1), ("--dst-type", fields["destination"], 2)):
        if types:
            kinds = ",".join(kind for number, kind in enumerate(ADDRESS_TYPES) if types >> number & 1).upper()
            words.append(option_text(flags & bit, name, kinds))
    words += [name for name, bit in (("--limit-iface-in", 4), ("--limit-iface-out", 8)) if flags & bit]
    return " ".join(words)


def _owner_text(fields: Unpacked, _family: Family) -> str | None:
    flags, inverted = fields["match"], fields["invert"]
    words = [option_text(inverted & 4, "--socket-exists")] if flags & xt_layouts.OWNER_SOCKET else []
    for kind, bit in (("uid", xt_layouts.OWNER_UID), ("gid", xt_layouts.OWNER_GID)):
        if flags & bit:
            ids = Span(fields[f"{kind}_min"], fields[f"{kind}_max"])
            words.append(option_text(inverted & bit, f"--{kind}-owner", ids))
    return " ".join(words) if 0 < flags < 8 else None  # 8: supplementary groups


def _iprange_text(fields: Unpacked, family: Family) -> str:
    """``--src-range 10.0.0.1-10.0.0.3``."""
    flags = fields["flags"]
    words = []
    for kind, bit in (("src", xt_layouts.IPRANGE_SOURCE), ("dst", xt_layouts.IPRANGE_DESTINATION)):
        if flags & bit:
            ends = "-".join(_packed_address_text(fields[f"{kind}_{end}"], family) for end in ("min", "max"))
            words.append(option_text(flags & bit << xt_layouts.IPRANGE_NEGATED, f"--{kind}-range", ends))
    return " ".join(words)


def _mark_text(fields: Unpacked, _family: Family) -> str:
    return option_text(fields["invert"], "--mark", bits_text(fields["mark"], fields["mask"]))


STATES_IN_ORDER = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED", "SNAT", "DNAT")  # libxt_conntrack.c
STATE_OR_STATUS_BITS = {**xt_layouts.XT_STATE_BITS, "SNAT": 64, "DNAT": 128}  # XT_CONNTRACK_STATE_*
MATCH_DIRECTION = 1 << 12  # XT_CONNTRACK_DIRECTION
STATE_ALIAS = 1 << 13  # XT_CONNTRACK_STATE_ALIAS: written as ``-m state --state``


END_BITS = 0xF3E  # XT_CONNTRACK_PROTO, four of addresses from _ORIGSRC on, and four of ports from _ORIGSRC_PORT on


def _conntrack_text(fields: Unpacked, family: Family) -> str | None:
    """``--ctstate NEW,SNAT``, or ``--ctdir REPLY``, or ``--ctorigdstport 80`` and the like, without a state."""
    matched, inverted, bits = fields["match_flags"], fields["invert_flags"], fields["state_mask"]
    if matched == MATCH_DIRECTION and not inverted & ~MATCH_DIRECTION:
        return f"--ctdir {'REPLY' if inverted else 'ORIGINAL'}"
    if matched and fields.get("ports_to") and not matched & ~END_BITS:
        return " ".join(_tested_ends(fields, family))
    states = ",".join(state for state in STATES_IN_ORDER if bits & STATE_OR_STATUS_BITS[state])
    other = matched & ~STATE_ALIAS != xt_layouts.CONNTRACK_STATE or inverted & ~xt_layouts.CONNTRACK_STATE
    is_known = states and not other and not bits & ~sum(STATE_OR_STATUS_BITS.values())
    return option_text(inverted, "--ctstate", states) if is_known else None


def _tested_ends(fields: Unpacked, family: Family) -> Iterator[str]:
    matched, inverted, size = fields["match_flags"], fields["invert_flags"], BITS[family] // 8
    if matched & 2:
        yield option_text(inverted & 2, "--ctproto", fields["protocol"])
    names = list(enumerate(("origsrc", "origdst", "replsrc", "repldst")))
    for number, name in (each for each in names if matched & 4 << each[0]):
        ends = (fields["addresses"][start : start + size] for start in (32 * number, 32 * number + 16))
        address, mask = (int.from_bytes(each, "big") for each in ends)
        yield network_text(f"--ct{name}", family, address, mask, negated=inverted & 4 << number)
    for number, name in (each for each in names if matched & 256 << each[0]):
        ends = (fields[part][2 * number : 2 * number + 2] for part in ("ports", "ports_to"))
        ports = Span(*(int.from_bytes(each, BYTE_ORDER) for each in ends))
        yield option_text(inverted & 256 << number, f"--ct{name}port", ports_text([ports]))


PORT_OPTIONS = {xt_layouts.MULTIPORT_SOURCE: "--sports", xt_layouts.MULTIPORT_DESTINATION: "--dports", 2: "--ports"}
"""The last is of source or destination: XT_MULTIPORT_EITHER in linux/netfilter/xt_multiport.h."""


def _multiport_text(fields: Unpacked, _family: Family) -> str | None:
    """``--ports 53,1000:2000``."""
    count, name = fields["count"], PORT_OPTIONS.get(fields["kind"])
    if name is None or not 0 < count <= MULTIPORT_SLOTS:
        return None
    packed, ranges = fields["ports"], fields["is_range"]
    numbers = [int.from_bytes(packed[2 * slot : 2 * slot + 2], BYTE_ORDER) for slot in range(count)]
    ports = []
    slot = 0
    while slot < count:
        last = slot + (ranges[slot] > 0 and slot + 1 < count)
        ports.append(Span(numbers[slot], numbers[last]))
        slot = last + 1
    return option_text(fields["invert"], name, ports_text(ports))


NFTA_LIMIT = (1, 2, 3, 4, 5)
"""NFTA_LIMIT_RATE, _UNIT, _BURST, _TYPE, _FLAGS in linux/netfilter/nf_tables.h."""
LIMIT_UNITS = {1: "sec", 60: "min", 3600: "hour", 86400: "day"}
USUAL_BURST = 5


def limit_text(fields: dict[int, bytes]) -> str:
    """Return ``-m limit --limit 5/min``, which iptables writes as an expression of nf_tables."""
    rate, unit, burst, kind, flags = (decode_number(fields.get(part, b"")) for part in NFTA_LIMIT)
    if kind or flags or unit not in LIMIT_UNITS:
        return f"[ limit {rate}/{unit}s burst {burst} type {kind} flags {flags} ]"
    more = "" if burst == USUAL_BURST else f" --limit-burst {burst}"
    return f"-m limit --limit {rate}/{LIMIT_UNITS[unit]}{more}"


# linux/netfilter/nf_nat.h, NF_NAT_RANGE_*
MAP_IPS, PROTO_RANDOM, PERSISTENT, PROTO_RANDOM_FULLY = 1, 4, 8, 16
NAT_OPTIONS = {PROTO_RANDOM: "--random", PROTO_RANDOM_FULLY: "--random-fully", PERSISTENT: "--persistent"}


def _nat_ports(fields: Unpacked) -> str:
    return str(Span(fields["min_port"], fields["max_port"])) if fields["flags"] & xt_layouts.NAT_PORTS else ""


def _nat(name: str, where: str, fields: Unpacked) -> str:
    options = [word for bit, word in NAT_OPTIONS.items() if fields["flags"] & bit]
    return " ".join([f"{name} {where}", *options] if where else options)


def _nat_speaker(name: str) -> Speak:
    return lambda fields, family: _nat(name, _nat_address(fields, family), fields)


def _nat_address(fields: Unpacked, family: Family) -> str:
    """Return addresses and ports as ``--to-destination`` has them."""
    first, last = (_packed_address_text(fields[end], family) for end in ("min_ip", "max_ip"))
    addresses = (first if first == last else f"{first}-{last}") if fields["flags"] & MAP_IPS else ""
    ports = _nat_ports(fields)
    if not ports:
        return addresses
    return f"[{addresses}]:{ports}" if family == IPV6 and addresses else f"{addresses}:{ports}"


def _netmap_text(fields: Unpacked, family: Family) -> str | None:
    """``--to 10.1.0.0/16``, a network whose first and last address the range has (libipt_NETMAP.c)."""
    first, last = (int.from_bytes(fields[end][: BITS[family] // 8], "big") for end in ("min_ip", "max_ip"))
    networks = tuple(networks_in_range(family, first, last)) if fields["flags"] & MAP_IPS and first <= last else ()
    return f"--to {networks[0]}" if len(networks) == 1 else None


COPY_MARK = {xt_layouts.CONNMARK_SAVE: "--save-mark", xt_layouts.CONNMARK_RESTORE: "--restore-mark"}


def _xmark_word(mark: int, mask: int) -> str:
    """Return one word for each way to change bits: exchange, and, or, xor (libxt_MARK.c)."""
    return f"--set-xmark {mark:#x}/{mask:#x}"


def _connmark_text(fields: Unpacked, _family: Family) -> str | None:
    if fields.get("shift_dir") or fields.get("shift_bits"):
        return None
    if fields["mode"] == 0:
        return _xmark_word(fields["ctmark"], fields["ctmask"])
    action = COPY_MARK.get(fields["mode"])
    return action and f"{action} --nfmask {fields['nfmask']:#x} --ctmask {fields['ctmask']:#x}"


def _ct_text(fields: Unpacked, _family: Family) -> str | None:
    if fields["flags"] & ~3 or fields["ct_events"] or fields["exp_events"] or any(fields["timeout"]):
        return None  # events, a timeout policy, a zone for one direction
    words = ["--notrack"] if fields["flags"] & 1 else []
    helper = decode_text(fields["helper"])
    words += [f"--helper {helper}"] if helper else []
    words += [f"--zone {fields['zone']}"] if fields["zone"] else []
    return " ".join(words)


LOG_OPTIONS = {
    1: "--log-tcp-sequence", 2: "--log-tcp-options", 4: "--log-ip-options", 8: "--log-uid", 32: "--log-macdecode",
}  # fmt: skip


def _log_text(fields: Unpacked, _family: Family) -> str:
    prefix = "".join(letter if letter.isprintable() else " " for letter in decode_text(fields["prefix"]))
    words = [f"--log-prefix {quoted(prefix)}"] if prefix else []
    words += [f"--log-level {fields['level']}"] if fields["level"] != xt_layouts.LOG_WARNING else []
    words += [word for bit, word in LOG_OPTIONS.items() if fields["flags"] & bit]
    return " ".join(words)


REJECT_WITH = {
    IPV4: (
        *("icmp-net-unreachable", "icmp-host-unreachable", "icmp-proto-unreachable", "icmp-port-unreachable", None),
        *("icmp-net-prohibited", "icmp-host-prohibited", "tcp-reset", "icmp-admin-prohibited"),
    ),
    IPV6: (
        *("icmp6-no-route", "icmp6-adm-prohibited", None, "icmp6-addr-unreachable", "icmp6-port-unreachable", None),
        *("tcp-reset", "icmp6-policy-fail", "icmp6-reject-route"),
    ),
}
"""By the numbers of linux/netfilter_ipv4/ipt_REJECT.h and linux/netfilter_ipv6/ip6t_REJECT.h."""


def _reject_text(fields: Unpacked, family: Family) -> str | None:
    answer = dict(enumerate(REJECT_WITH[family])).get(fields["answer"])
    return answer and f"--reject-with {answer}"


def _statistic_text(fields: Unpacked, _family: Family) -> str:
    if fields["mode"]:
        return f"--mode nth {option_text(fields['invert'], '--every', fields['every'] + 1)} --packet {fields['packet']}"
    probability = f"{fields['every'] / (1 << 31):.11f}"  # the same bytes, of a random mode
    return f"--mode random {option_text(fields['invert'], '--probability', probability)}"


def _queue_text(fields: Unpacked, _family: Family) -> str:
    first, last = fields["first"], fields["first"] + fields["count"] - 1
    options = {1: "--queue-bypass", 2: "--queue-cpu-fanout"}  # NFQ_FLAG_*
    queues = f"--queue-num {first}" if first >= last else f"--queue-balance {first}:{last}"
    return " ".join([queues, *(word for bit, word in options.items() if fields["flags"] & bit)])


def _flag_speaker(names: Mapping[int, str]) -> Speak:
    return lambda fields, _family: " ".join(word for bit, word in names.items() if fields["flags"] & bit)


_PORTS = "sport 2, sport_to 2, dport 2, dport_to 2"
_ICMP = Layout("type 1, code 1, code_to 1, invert 1")

_HOPS = Layout("mode 1, hops 1")

EXTENSION_TEXTS: dict[tuple[str, int], tuple[Layout, Speak]] = {
    ("tcp", 0): (Layout(f"{_PORTS}, option 1, flags_mask 1, flags 1, invert 1"), _tcp_text),
    ("udp", 0): (Layout(f"{_PORTS}, invert 1"), lambda fields, _family: " ".join(_port_options(fields))),
    ("icmp", 0): (_ICMP, _icmp_text),
    ("icmp6", 0): (_ICMP, _icmp_text),
    ("addrtype", 1): (Layout("source 2, destination 2, flags 4"), _addrtype_text),
    ("owner", 1): (xt_layouts.OWNER, _owner_text),
    ("mark", 1): (xt_layouts.MARK_MATCH, _mark_text),
    ("connmark", 1): (xt_layouts.MARK_MATCH, _mark_text),
    ("iprange", 1): (xt_layouts.IPRANGE, _iprange_text),
    ("multiport", 1): (xt_layouts.MULTIPORT, _multiport_text),
    ("conntrack", 1): (xt_layouts.CONNTRACK_1, _conntrack_text),
    ("conntrack", 2): (xt_layouts.CONNTRACK, _conntrack_text),
    ("conntrack", 3): (xt_layouts.CONNTRACK, _conntrack_text),
    ("REDIRECT", 0): (xt_layouts.NAT_RANGE, lambda fields, _family: _nat("--to-ports", _nat_ports(fields), fields)),
    ("MASQUERADE", 0): (xt_layouts.NAT_RANGE, lambda fields, _family: _nat("--to-ports", _nat_ports(fields), fields)),
    **{("SNAT", revision): (xt_layouts.NAT_RANGE, _nat_speaker("--to-source")) for revision in range(3)},
    **{("DNAT", revision): (xt_layouts.NAT_RANGE, _nat_speaker("--to-destination")) for revision in range(3)},
    ("TPROXY", 1): (
        xt_layouts.TPROXY,
        lambda fields, family: (
            f"--on-port {fields['port']} --on-ip {_packed_address_text(fields['address'], family)}"
            f" --tproxy-mark {fields['mark']:#x}/{fields['mask']:#x}"
        ),
    ),
    ("MARK", 2): (xt_layouts.MARK_TARGET, lambda fields, _family: _xmark_word(fields["mark"], fields["mask"])),
    ("CONNMARK", 1): (xt_layouts.CONNMARK_1, _connmark_text),
    ("CONNMARK", 2): (xt_layouts.CONNMARK, _connmark_text),
    ("NETMAP", 0): (xt_layouts.NAT_RANGE, _netmap_text),
    ("CT", 1): (xt_layouts.CT, _ct_text),
    ("CT", 2): (xt_layouts.CT, _ct_text),
    ("LOG", 0): (xt_layouts.LOG, _log_text),
    ("REJECT", 0): (Layout("answer 4"), _reject_text),
    ("statistic", 0): (Layout("mode 2, invert 2, every 4, packet 4"), _statistic_text),
    ("NFQUEUE", 3): (Layout("first 2, count 2, flags 2"), _queue_text),
    ("socket", 3): (
        Layout("flags 1"),
        _flag_speaker({1: "--transparent", 2: "--nowildcard", 4: "--restore-skmark"}),
    ),
    ("rpfilter", 0): (
        Layout("flags 1"),
        _flag_speaker({1: "--loose", 2: "--validmark", 4: "--accept-local", 8: "--invert"}),
    ),
    ("TTL", 0): (_HOPS, lambda fields, _family: None if fields["mode"] else f"--ttl-set {fields['hops']}"),
    ("HL", 0): (_HOPS, lambda fields, _family: None if fields["mode"] else f"--hl-set {fields['hops']}"),
}
"""By name and revision: linux/netfilter/xt_tcpudp.h (which iptables up to 1.8.7 wrote), ip_tables.h, xt_addrtype.h."""

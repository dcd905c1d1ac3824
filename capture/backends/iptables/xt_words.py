"""Words for what others wrote and the model lacks: those of iptables-save where we know them. Pure.

For people, and so that a rule of others is shown alike whichever driver reads it. What even this does not
know is shown by name and bytes: ``-m recent [ revision 1, 0x01020000... ]``. Only imported when needed.
"""

from __future__ import annotations

from capture.backends.iptables import xt_layouts
from capture.backends.iptables.render import quoted
from capture.backends.iptables.xt_layouts import be16_at, u16_at, u32_at
from capture.model.addresses import BITS, IPV4, address_text
from capture.model.ruleset import IPV6
from capture.netlink.attributes import decode_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from capture.model.addresses import Family

PROTOCOL_WORDS = {
    1: "icmp",
    2: "igmp",
    6: "tcp",
    17: "udp",
    33: "dccp",
    41: "ipv6",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "ipv6-icmp",
    132: "sctp",
    136: "udplite",
}
"""As protocols(5) has them, whatever the host's /etc/protocols says."""


def protocol_words(number: int, *, negated: bool) -> str:
    """Return ``-p icmp``, ``! -p tcp``, ``-p 99``."""
    return f"{'! ' if negated else ''}-p {PROTOCOL_WORDS.get(number, number)}"


def masked_words(option: str, family: Family, address: int, mask: int, *, negated: bool) -> str:
    """Return ``-d 10.0.1.0/255.0.255.0``."""
    network = f"{address_text(family, address)}/{address_text(family, mask)}"
    return f"{'! ' if negated else ''}{option} {network}"


def match_words(name: str, revision: int, structure: bytes, family: Family) -> str:
    """Return the words for a match."""
    speak = MATCH_WORDS.get((name, revision))
    words = speak(structure, family) if speak else None
    return f"-m {name} {_bytes(revision, structure) if words is None else words}".rstrip()


def target_words(name: str, revision: int, structure: bytes, family: Family) -> str:
    """Return the words for a target; they begin with its name."""
    speak = TARGET_WORDS.get((name, revision))
    words = speak(structure, family) if speak else None
    return f"{name} {_bytes(revision, structure) if words is None else words}".rstrip()


def _bytes(revision: int, structure: bytes) -> str:
    data = structure.rstrip(b"\0")
    return f"[ revision {revision}, 0x{data.hex()} ]" if data else f"[ revision {revision} ]"


# --- matches -------------------------------------------------------------------------------------


def _tcp(structure: bytes, _family: Family) -> str | None:
    """``--sport 1:2 --dport 80 --tcp-option 5 --tcp-flags SYN,ACK SYN`` (libxt_tcp.c)."""
    option, mask, compared, inverted = structure[8:12]
    words = []
    for name, place, bit in (("--sport", 0, 1), ("--dport", 4, 2)):
        first, last = u16_at(structure, place), u16_at(structure, place + 2)
        if inverted & bit or (first, last) != (0, 0xFFFF):
            words.append(f"{_not(inverted & bit)}{name} {first if first == last else f'{first}:{last}'}")
    if option:
        words.append(f"{_not(inverted & 8)}--tcp-option {option}")
    if mask or inverted & 4:
        words.append(tcp_flags_words(mask, compared, negated=bool(inverted & 4)))
    return " ".join(words)


def _not(negated: int) -> str:
    return "! " if negated else ""


TCP_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")  # RFC 9293 3.1, from the lowest bit


def tcp_flags_words(mask: int, compared: int, *, negated: bool) -> str:
    """Return ``--tcp-flags SYN,ACK SYN``: which flags are looked at, and which of them must be set."""
    return f"{_not(negated)}--tcp-flags {_flags(mask)} {_flags(compared)}"


def _flags(bits: int) -> str:
    return ",".join(name for place, name in enumerate(TCP_FLAGS) if bits >> place & 1) or "NONE"


def _icmp(structure: bytes, _family: Family) -> str:
    """``| type | code from | code to | invflags |``, of linux/netfilter_ipv4/ip_tables.h and its sister."""
    kind, first, last, inverted = structure[:4]
    code = "" if (first, last) == (0, 0xFF) else f"/{first}"
    return f"{_not(inverted & 1)}--icmp-type {'any' if kind == 0xFF else f'{kind}{code}'}"


def _icmp6(structure: bytes, family: Family) -> str:
    return _icmp(structure, family).replace("--icmp-type", "--icmpv6-type")


ADDRESS_TYPES = (
    *("UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST"),
    *("BLACKHOLE", "UNREACHABLE", "PROHIBIT", "THROW", "NAT", "XRESOLVE"),
)


def _addrtype(structure: bytes, _family: Family) -> str:
    """``| source | dest | flags |``, of linux/netfilter/xt_addrtype.h, struct xt_addrtype_info_v1."""
    flags = u32_at(structure, 4)
    words = []
    for option, place, bit in (("--src-type", 0, 1), ("--dst-type", 2, 2)):
        types = u16_at(structure, place)
        if types:
            names = ",".join(name for number, name in enumerate(ADDRESS_TYPES) if types >> number & 1)
            words.append(f"{_not(flags & bit)}{option} {names}")
    words += [option for option, bit in (("--limit-iface-in", 4), ("--limit-iface-out", 8)) if flags & bit]
    return " ".join(words)


OWNER_SOCKET = 4  # XT_OWNER_SOCKET in linux/netfilter/xt_owner.h


def _owner(structure: bytes, _family: Family) -> str | None:
    """``--socket-exists``, and nothing else."""
    return f"{_not(structure[17] & OWNER_SOCKET)}--socket-exists" if structure[16] == OWNER_SOCKET else None


def _iprange(structure: bytes, family: Family) -> str:
    """``--src-range 10.0.0.1-10.0.0.3``."""
    size = BITS[family] // 8
    flags = structure[64]
    words = []
    for option, place, bit in (("--src-range", 0, 1), ("--dst-range", 32, 2)):
        if flags & bit:
            ends = (int.from_bytes(structure[at : at + size], "big") for at in (place, place + 16))
            words.append(f"{_not(flags & bit << 4)}{option} {'-'.join(address_text(family, end) for end in ends)}")
    return " ".join(words)


FURTHER_STATES = {64: "SNAT", 128: "DNAT"}  # XT_CONNTRACK_STATE_SNAT, XT_CONNTRACK_STATE_DNAT


def _conntrack(structure: bytes, _family: Family) -> str | None:
    """``--ctstate NEW,SNAT``, without addresses, and nothing else."""
    flags, inverted, bits = (u16_at(structure, place) for place in (146, 148, 150))
    if flags != xt_layouts.CONNTRACK_STATE:
        return None
    names = {bit: name for name, bit in xt_layouts.STATE_BITS.items()} | FURTHER_STATES
    in_order = (1, 8, 4, 2, 256, 64, 128)  # print_state in libxt_conntrack.c
    return f"{_not(inverted & 1)}--ctstate {','.join(names[bit] for bit in in_order if bits & bit)}"


EITHER = 2  # XT_MULTIPORT_EITHER in linux/netfilter/xt_multiport.h


def _multiport(structure: bytes, _family: Family) -> str | None:
    """``--ports 53,1000:2000``: source or destination."""
    spans = xt_layouts.spans_of(structure)
    if structure[0] != EITHER or spans is None:
        return None
    ports = ",".join(f"{span.first}" if span.first == span.last else f"{span.first}:{span.last}" for span in spans)
    return f"{_not(structure[47])}--ports {ports}"


MATCH_WORDS: dict[tuple[str, int], Callable[[bytes, Family], str | None]] = {
    ("tcp", 0): _tcp,
    ("icmp", 0): _icmp,
    ("icmp6", 0): _icmp6,
    ("addrtype", 1): _addrtype,
    ("owner", 1): _owner,
    ("iprange", 1): _iprange,
    ("multiport", 1): _multiport,
    ("conntrack", 2): _conntrack,
    ("conntrack", 3): _conntrack,
}

# linux/netfilter/nf_tables.h, enum nft_limit_attributes
NFTA_LIMIT_RATE, NFTA_LIMIT_UNIT, NFTA_LIMIT_BURST, NFTA_LIMIT_TYPE, NFTA_LIMIT_FLAGS = 1, 2, 3, 4, 5
LIMIT_UNITS = {1: "sec", 60: "min", 3600: "hour", 86400: "day"}
USUAL_BURST = 5


def limit_words(fields: dict[int, bytes]) -> str:
    """Return ``-m limit --limit 5/min``, which iptables writes as an expression of nf_tables."""
    rate, unit, burst, kind, flags = (
        decode_number(fields.get(part, b""))
        for part in (NFTA_LIMIT_RATE, NFTA_LIMIT_UNIT, NFTA_LIMIT_BURST, NFTA_LIMIT_TYPE, NFTA_LIMIT_FLAGS)
    )
    if kind or flags or unit not in LIMIT_UNITS:
        return f"[ limit {rate}/{unit}s burst {burst} type {kind} flags {flags} ]"
    more = "" if burst == USUAL_BURST else f" --limit-burst {burst}"
    return f"-m limit --limit {rate}/{LIMIT_UNITS[unit]}{more}"


# --- targets -------------------------------------------------------------------------------------

# linux/netfilter/nf_nat.h, NF_NAT_RANGE_*
MAP_IPS, PROTO_SPECIFIED, PROTO_RANDOM, PERSISTENT, PROTO_RANDOM_FULLY = 1, 2, 4, 8, 16
NAT_OPTIONS = {PROTO_RANDOM: "--random", PROTO_RANDOM_FULLY: "--random-fully", PERSISTENT: "--persistent"}


class _NatRange:
    """The range of a NAT target: the structure of IPv4, that of IPv6, or nf_nat_range2 which both use."""

    def __init__(self, structure: bytes, family: Family, *, is_common: bool) -> None:
        self._structure = structure
        self._family = family
        compact = family == IPV4 and not is_common
        self.flags = u32_at(structure, 4 if compact else 0)
        self._addresses = (8, 12) if compact else (4, 20)
        self._ports = 16 if compact else 36
        self._size = BITS[family] // 8

    @property
    def ports(self) -> str:
        first, last = be16_at(self._structure, self._ports), be16_at(self._structure, self._ports + 2)
        return f"{first}" if first == last else f"{first}-{last}"

    @property
    def destination(self) -> str:
        """Addresses and ports as ``--to-destination`` has them."""
        first, last = (
            address_text(self._family, int.from_bytes(self._structure[place : place + self._size], "big"))
            for place in self._addresses
        )
        addresses = (first if first == last else f"{first}-{last}") if self.flags & MAP_IPS else ""
        if not self.flags & PROTO_SPECIFIED:
            return addresses
        return f"[{addresses}]:{self.ports}" if self._family == IPV6 else f"{addresses}:{self.ports}"

    @property
    def options(self) -> list[str]:
        return [word for bit, word in NAT_OPTIONS.items() if self.flags & bit]


def _to_ports(structure: bytes, family: Family) -> str:
    nat = _NatRange(structure, family, is_common=False)
    ports = [f"--to-ports {nat.ports}"] if nat.flags & PROTO_SPECIFIED else []
    return " ".join(ports + nat.options)


def _to_address(option: str, *, is_common: bool = False) -> Callable[[bytes, Family], str]:
    def speak(structure: bytes, family: Family) -> str:
        nat = _NatRange(structure, family, is_common=is_common)
        return " ".join([f"{option} {nat.destination}", *nat.options])

    return speak


def _tproxy(structure: bytes, family: Family) -> str:
    size = BITS[family] // 8
    address = address_text(family, int.from_bytes(structure[8 : 8 + size], "big"))
    mark = f"{u32_at(structure, 4):#x}/{u32_at(structure, 0):#x}"
    return f"--on-port {be16_at(structure, 24)} --on-ip {address} --tproxy-mark {mark}"


def _set_mark(structure: bytes, _family: Family) -> str:
    """One word for each way to change bits: exchange, and, or, xor (libxt_MARK.c)."""
    mark, mask = u32_at(structure, 0), u32_at(structure, 4)
    return f"--set-xmark {mark:#x}/{mask:#x}"


def _connmark(structure: bytes, _family: Family) -> str | None:
    ctmark, ctmask, nfmask = (u32_at(structure, place) for place in (0, 4, 8))
    if any(structure[12:14]):
        return None  # shifted
    if structure[14] == 0:
        return f"--set-xmark {ctmark:#x}/{ctmask:#x}"
    action = "--save-mark" if structure[14] == xt_layouts.CONNMARK_SAVE else "--restore-mark"
    return f"{action} --nfmask {nfmask:#x} --ctmask {ctmask:#x}"


def _ct(structure: bytes, _family: Family) -> str | None:
    flags, zone = u16_at(structure, 0), u16_at(structure, 2)
    if flags & ~3 or any(structure[4:12]) or any(structure[28:60]):
        return None  # events, a timeout policy, a zone for one direction
    words = ["--notrack"] if flags & 1 else []
    helper = xt_layouts.read_comment(structure[12:28])
    words += [f"--helper {helper}"] if helper else []
    words += [f"--zone {zone}"] if zone else []
    return " ".join(words)


LOG_OPTIONS = {
    1: "--log-tcp-sequence",
    2: "--log-tcp-options",
    4: "--log-ip-options",
    8: "--log-uid",
    32: "--log-macdecode",
}


def _log(structure: bytes, _family: Family) -> str:
    level, flags = structure[0], structure[1]
    prefix = "".join(letter if letter.isprintable() else " " for letter in xt_layouts.read_comment(structure[2:]))
    words = [f"--log-prefix {quoted(prefix)}"] if prefix else []
    words += [f"--log-level {level}"] if level != xt_layouts.LOG_WARNING else []
    words += [word for bit, word in LOG_OPTIONS.items() if flags & bit]
    return " ".join(words)


TARGET_WORDS: dict[tuple[str, int], Callable[[bytes, Family], str | None]] = {
    ("REDIRECT", 0): _to_ports,
    ("MASQUERADE", 0): _to_ports,
    ("SNAT", 0): _to_address("--to-source"),
    ("SNAT", 1): _to_address("--to-source", is_common=True),
    ("SNAT", 2): _to_address("--to-source", is_common=True),
    ("DNAT", 0): _to_address("--to-destination"),
    ("DNAT", 1): _to_address("--to-destination", is_common=True),
    ("DNAT", 2): _to_address("--to-destination", is_common=True),
    ("TPROXY", 1): _tproxy,
    ("MARK", 2): _set_mark,
    ("CONNMARK", 2): _connmark,
    ("CT", 1): _ct,
    ("CT", 2): _ct,
    ("LOG", 0): _log,
}

"""What matches and targets of foreign rules mean that the model of our own rules lacks. Pure; ``parse`` needs it.

Only what is certain has a meaning. Everything else stays as it was printed.
"""

from __future__ import annotations

from capture.backends.iptables.parse import Flag, as_printed, parse_options
from capture.backends.nf_tables.foreign_expressions import IMPURE
from capture.model import foreign
from capture.model import ruleset as model
from capture.model.addresses import networks_in_range, parse_address, parse_network
from capture.model.conventions import MAX_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from capture.backends.iptables.parse import Word
    from capture.model.addresses import Network


def unknown_match(clause: Sequence[Word]) -> model.UnknownMatch:
    """Return a clause that our vocabulary lacks, with what it tests where that is certain."""
    words = [word.text for word in clause]
    try:
        test = _extension_match(words[1], parse_options(clause[2:])) if words[0] == "-m" else _own_option(words)
    except (KeyError, IndexError, ValueError):
        test = None
    return model.UnknownMatch(as_printed(clause), test, words[0] != "-m" or IMPURE.isdisjoint(words[1:2]))


def _own_option(words: Sequence[str]) -> model.Match | None:
    match words:
        case ["-p", name] | ["!", "-p", name]:
            return foreign.Protocols((PROTOCOL_SPELLINGS.get(name, name),), words[0] == "!")
        case ["-f"] | ["!", "-f"]:
            return foreign.LaterFragment(words[0] == "!")
    return None


PROTOCOL_SPELLINGS = {"6": "tcp", "17": "udp", "58": "ipv6-icmp", "icmpv6": "ipv6-icmp"}


def _extension_match(name: str, options: Sequence[Flag]) -> model.Match | None:
    match name, options:
        case "iprange", _:
            return foreign.AllOf(tuple(map(_range_match, options)))
        case "addrtype", [Flag("--src-type" | "--dst-type" as option, ("LOCAL",), negated)]:
            return foreign.LocalAddress(ADDRESS_MATCHES[option], negated)
        case "conntrack", [Flag("--ctstate", (states,), negated)]:
            return foreign.States(tuple(states.split(",")), negated)
        case "conntrack", [Flag("--ctdir", (direction,), negated=False)]:
            return foreign.ConnectionDirection(direction == "REPLY")
        case "owner", [Flag("--socket-exists", (), negated)]:
            return foreign.AllOf((model.OwnerUid((model.Span(0, MAX_ID),), negated),))
        case "icmp6", [Flag("--icmpv6-type", (number,), negated)]:
            return foreign.IcmpType(int(number), negated)
        case "tcp", [Flag("--tcp-flags", (mask, value), negated)]:
            return foreign.TcpFlags(_flag_bits(mask), _flag_bits(value), negated)
    return None


def _flag_bits(names: str) -> int:
    return sum(FLAGS[name] for name in names.split(","))


def _range_match(option: Flag) -> model.AddressMatch:
    first, last = map(parse_address, option.values[0].split("-"))
    return ADDRESS_MATCHES[option.name](tuple(networks_in_range(first.family, first.first, last.first)), option.negated)


ADDRESS_MATCHES: dict[str, type[model.AddressMatch]] = {
    **dict.fromkeys(("--src-range", "--src-type"), model.Source),
    **dict.fromkeys(("--dst-range", "--dst-type"), model.Destination),
}
FLAGS = {"NONE": 0, "ALL": 0x3F, "FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32}  # RFC 9293 3.1


def unknown_verdict(words: Sequence[Word]) -> model.UnknownVerdict:
    """Return a target that our vocabulary lacks, with what it comes to where that is certain."""
    name = "".join(word.text for word in words[:1])
    try:
        then = _target_verdict(name, {option.name: " ".join(option.values) for option in parse_options(words[1:])})
    except ValueError:
        then = None
    return model.UnknownVerdict(as_printed(words), then or TARGETS.get(name))


def _target_verdict(name: str, values: dict[str, str]) -> model.Verdict | None:
    match name, values:
        case "DNAT", {"--to-destination": text}:
            return foreign.translation_verdict(*_nat_ends(text))
        case "SNAT", {"--to-source": text}:
            return foreign.TranslateSource(next(iter(_nat_ends(text)[0]), None))
        case "REDIRECT", {"--to-ports": text}:
            return foreign.redirect_verdict(_nat_ends(f":{text}")[1])
        case "REDIRECT", _:
            return foreign.redirect_verdict([])
        case "NETMAP", {"--to": text}:
            return foreign.Translate(parse_network(text), None)
        case "CT", {"--notrack": _}:
            return foreign.Untrack()
        case "CT", {"--helper": _} if "--zone" not in values:
            return model.Continue()
        case "TTL" | "HL", _ if not values.keys() & HOP_LIMITS or int(*values.values()) >= FEW_HOPS:
            return model.Continue()  # else some destinations are too far away
    return None


HOP_LIMITS, FEW_HOPS = {"--ttl-set", "--hl-set"}, 32


def _nat_ends(text: str) -> tuple[list[Network], list[int]]:
    """Return the first and the last address, and port, of ``10.0.0.1-10.0.0.9:80-90``, ``:80`` or ``[fd00::1]:80``."""
    ports = ""
    if text.startswith("["):
        text, _, ports = text[1:].partition("]")
    elif text.count(":") == 1:
        text, _, ports = text.partition(":")
    addresses = [parse_address(each) for each in text.split("-")] if text else []
    return addresses, [*map(int, ports.removeprefix(":").split("-"))] if ports else []


TARGETS: dict[str, model.Verdict] = {
    "REJECT": foreign.Reject(),
    "TARPIT": model.Drop(),
    "NOTRACK": foreign.Untrack(),
    "MASQUERADE": model.Accept(),
    "SNAT": foreign.TranslateSource(None),
    **dict.fromkeys(
        (
            *("NFLOG", "ULOG", "TRACE", "AUDIT", "CLASSIFY", "DSCP", "TOS", "ECN", "CHECKSUM", "TCPMSS"),
            *("TCPOPTSTRIP", "LED", "IDLETIMER", "RATEEST", "SET", "TEE"),
        ),
        model.Continue(),
    ),
}
"""Targets that do the same with any options. The last ones let a packet go on unchanged in all that the model knows
(XT_CONTINUE in net/netfilter/xt_*.c); the address of a SNAT may be one that cannot be read."""

"""From rules to what iptables-nft makes of them, byte for byte as the kernel keeps it. Pure; inverse of ``xt_decode``.

A rule is a list of expressions, in this order, independent of the order of its matches (iptables 1.8.9):

    -i -o -p -s -d     meta, payload    loaded to register 1 and compared
    --sport --dport    payload          ports of the transport header; lists by the match multiport
    -m mark            meta mark
    other matches      match            a structure of x_tables (``xt_layouts``)
                       counter
    -j                 immediate        a verdict, or a target of x_tables

Releases up to 1.8.7 wrote ports, and up to 1.8.8 marks, as matches of x_tables, and do not see them in rules of
today when they list them. ``xt_decode`` reads both.

Rules are of one family and without lists, as ``expansion.expanded`` makes them.
"""

from __future__ import annotations

from capture.backends.iptables import xt_layouts
from capture.backends.iptables.expansion import MAX_XT_COMMENT_BYTES, changed_bits, comment_text, multiport_slots
from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables import expressions as make
from capture.backends.nf_tables.expressions import PORT_SIZE
from capture.model import ruleset as model
from capture.model.addresses import IPV4, Family, Network
from capture.model.conventions import PROTOCOL_NUMBERS
from capture.netlink.attributes import BYTE_ORDER, attribute, c_string, u32, u32be

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from capture.netlink.attributes import Layout

NFTA_RULE_COMPAT_PROTO, NFTA_RULE_COMPAT_FLAGS = 1, 2  # linux/netfilter/nf_tables.h

LAST_PORT = 0xFFFF

NEVER_MATCHING_INTERFACE = b"INVAL/D\0"
"""The name that iptables compares with for ``! -i +``: no interface has a slash in its name."""


def encode_rule(rule: model.Rule, family: Family) -> bytes:
    """Return a message's attributes of a rule: its expressions, and its protocol. Raises as ``encode_expressions``.

    Some matches and targets demand a protocol (multiport, TPROXY), and cannot see it in the expressions.
    """
    protocol = next((COMPAT_ATTRIBUTES[match.name] for match in rule.matches if type(match) is model.Protocol), b"")
    return attribute(nf.NFTA_RULE_EXPRESSIONS, encode_expressions(rule, family)) + protocol


def encode_expressions(rule: model.Rule, family: Family) -> bytes:
    """Return the expressions of a rule. Raise ValueError if iptables has no words for it."""
    return encode_matches(rule, family) + make.COUNTER + encode_verdict(rule, family)


def encode_matches(rule: model.Rule, family: Family) -> bytes:
    """Return the expressions before the counter."""
    by_kind: dict[type, list[Any]] = {}
    for match in rule.matches:
        by_kind.setdefault(type(match), []).append(match)
    networks = {
        kind: [(network, match.negated) for match in by_kind.get(kind, ()) for network in match.networks]
        for kind in OFFSETS_BY_FAMILY
    }
    parts = [_interface_comparison(kind, match) for kind in LOAD_INTERFACE for match in by_kind.get(kind, ())]
    parts += [PROTOCOL_TESTS[match.name] for match in by_kind.get(model.Protocol, ())]
    parts += [_network_comparison(kind, *named[0], family) for kind, named in networks.items() if named]
    parts += _port_expressions(by_kind)
    parts += [_address_range(kind, *more) for kind, named in networks.items() for more in named[1:]]
    parts += [ENCODERS[type(match)](match) for match in rule.matches if type(match) in ENCODERS]
    if rule.why:
        why = xt_layouts.c_string(comment_text(rule.why), MAX_XT_COMMENT_BYTES + 1, "a comment")
        parts.append(_packed("comment", comment=why))
    return b"".join(parts)


def encode_verdict(rule: model.Rule, family: Family) -> bytes:
    """Return the expression after the counter; none for a rule that only counts."""
    verdict = rule.verdict
    return _packed_redirect(verdict, family) if type(verdict) is model.Redirect else ENCODERS[type(verdict)](verdict)


def _packed(name: str, layout: Layout | None = None, /, **fields: int | bytes) -> bytes:
    """Return a match or a target with these fields of its structure, which is the usual one unless another is given."""
    revision, usual = xt_layouts.WRITTEN[name]
    structure = (layout or usual).write(**fields)
    return make.framed(
        (name, revision, len(structure)),
        structure,
        lambda structure: make.expression(
            "match" if name.islower() else "target",
            attribute(nf.NFTA_MATCH_NAME, c_string(name)),
            attribute(nf.NFTA_MATCH_REV, u32be(revision)),
            attribute(nf.NFTA_MATCH_INFO, structure),
        ),
    )


COMPAT_ATTRIBUTES = {
    name: make.nest(
        nf.NFTA_RULE_COMPAT,
        attribute(NFTA_RULE_COMPAT_PROTO, u32be(number)),
        attribute(NFTA_RULE_COMPAT_FLAGS, u32be(0)),
    )
    for name, number in PROTOCOL_NUMBERS.items()
}

LOAD_MARK = make.load_meta(nf.NFT_META_MARK)
LOAD_INTERFACE: dict[type, bytes] = {
    model.InInterface: make.load_meta(nf.NFT_META_IIFNAME),
    model.OutInterface: make.load_meta(nf.NFT_META_OIFNAME),
}
PROTOCOL_TESTS = {
    name: make.load_meta(nf.NFT_META_L4PROTO) + make.equals(bytes((number,)))
    for name, number in PROTOCOL_NUMBERS.items()
}

OFFSETS_BY_FAMILY: dict[type, dict[Family, int]] = {
    model.Source: nf.SOURCE_OFFSETS,
    model.Destination: nf.DESTINATION_OFFSETS,
}
"""Where they are in the header."""


def _interface_comparison(kind: type, match: model.InterfaceMatch) -> bytes:
    """Return the comparison with a name and the NUL at its end, or with its beginning."""
    name = match.name
    if name == "+":
        return LOAD_INTERFACE[kind] + (make.equals(NEVER_MATCHING_INTERFACE) if match.negated else b"")
    compared = name[:-1].encode("utf-8", "surrogateescape") if name.endswith("+") else c_string(name)
    return LOAD_INTERFACE[kind] + make.equals(compared, negated=match.negated)


def _network_comparison(kind: type[model.AddressMatch], network: Network, negated: bool, family: Family) -> bytes:  # noqa: FBT001  # a match's field
    if network.family != family:
        raise ValueError(f"a rule for {family} compares with an address of {network.family}: {network}")
    if not network.prefix and not negated:
        return b""
    return make.in_network(OFFSETS_BY_FAMILY[kind][family], network.packed, network.prefix, negated=negated)


def _address_range(kind: type[model.AddressMatch], network: Network, negated: bool) -> bytes:  # noqa: FBT001  # a match's field
    """Return a match for a network beyond the first, for which ``-s`` and ``-d`` have no room: a range."""
    end, flag = ("src", xt_layouts.IPRANGE_SOURCE) if kind is model.Source else ("dst", xt_layouts.IPRANGE_DESTINATION)
    ends = {f"{end}_min": network.packed, f"{end}_max": network.last.to_bytes(len(network.packed), "big")}
    flags = flag | flag << xt_layouts.IPRANGE_NEGATED * negated
    return _packed("iprange", **ends, flags=flags)


def _port_expressions(by_kind: dict[type, list[Any]]) -> Iterator[bytes]:
    """Yield single ports, then lists: source before destination, as ``render`` has them."""
    ports: list[model.PortMatch] = [*by_kind.get(model.SourcePort, ()), *by_kind.get(model.DestinationPort, ())]
    if ports and model.Protocol not in by_kind:
        raise ValueError(f"ports without a protocol: {ports}")
    singles = [match for match in ports if len(match.ports) == 1]
    if len(singles) > 1 and _is_one_load(singles):
        both = b"".join(match.ports[0].first.to_bytes(PORT_SIZE, "big") for match in singles)
        yield make.load_payload(nf.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2 * PORT_SIZE) + make.compare(nf.NFT_CMP_EQ, both)
    else:
        for match in singles:
            yield _packed_port(match.ports[0], PORT_SIZE * (type(match) is model.DestinationPort), match.negated)
    for match in ports:
        if len(match.ports) != 1:
            for slots in multiport_slots(match.ports):
                yield _packed_multiport(match, slots)


def _packed_multiport(match: model.PortMatch, ports: list[model.Span]) -> bytes:
    numbers: list[int] = []
    ranges = bytearray()
    for span in ports:
        is_range = span.first != span.last
        numbers += (span.first, span.last) if is_range else (span.first,)
        ranges += b"\1\0" if is_range else b"\0"
    return _packed(
        "multiport",
        kind=xt_layouts.MULTIPORT_SOURCE if type(match) is model.SourcePort else xt_layouts.MULTIPORT_DESTINATION,
        count=len(numbers),
        ports=b"".join([number.to_bytes(PORT_SIZE, BYTE_ORDER) for number in numbers]),
        is_range=bytes(ranges),
        invert=match.negated,
    )


def _is_one_load(ports: list[model.PortMatch]) -> bool:
    """Return whether iptables loads both ports at once: one of each kind, neither of them 0.

    It does so too where both are negated, but "not this pair" is not "neither of them": we compare one by one.
    """
    return (
        [type(match) for match in ports] == [model.SourcePort, model.DestinationPort]
        and all(match.ports[0].first == match.ports[0].last != 0 for match in ports)
        and not any(match.negated for match in ports)
    )


def _packed_port(ports: model.Span, offset: int, negated: bool) -> bytes:  # noqa: FBT001  # a match's field, handed on
    load = make.load_payload(nf.NFT_PAYLOAD_TRANSPORT_HEADER, offset, PORT_SIZE)
    first, last = ports.first.to_bytes(PORT_SIZE, "big"), ports.last.to_bytes(PORT_SIZE, "big")
    if first == last:
        return load + make.equals(first, negated=negated)
    if ports.first == 0 and ports.last == LAST_PORT:
        return load + make.in_range(first, last, negated=negated) if negated else b""
    if ports.first == 0:
        return load + make.compare(nf.NFT_CMP_GT if negated else nf.NFT_CMP_LTE, last)
    return load + make.in_range(first, last, negated=negated)


def _packed_owner(match: model.OwnerMatch) -> bytes:
    kind, bit = ("uid", xt_layouts.OWNER_UID) if type(match) is model.OwnerUid else ("gid", xt_layouts.OWNER_GID)
    encoded = b""
    for span in match.ids:
        ids = {f"{kind}_min": span.first, f"{kind}_max": span.last}
        encoded += _packed("owner", **ids, match=bit, invert=bit * match.negated)
    return encoded


def _packed_mark(match: model.Mark) -> bytes:
    masked = b"" if match.mask == model.ALL_BITS else make.bitwise(u32(match.mask))
    return LOAD_MARK + masked + make.equals(u32(match.value), negated=match.negated)


def _connection_state(match: model.ConnectionState) -> bytes:
    states = set(match.states)
    if not states <= xt_layouts.XT_STATE_BITS.keys():
        raise ValueError(f"not a state of a connection: {match}")
    tested, bits = xt_layouts.CONNTRACK_STATE, sum(xt_layouts.XT_STATE_BITS[state] for state in states)
    return _packed("conntrack", match_flags=tested, invert_flags=tested * match.negated, state_mask=bits)


def _packed_redirect(verdict: model.Redirect, family: Family) -> bytes:
    ports = {"flags": xt_layouts.NAT_PORTS, "min_port": verdict.port, "max_port": verdict.port}
    if family == IPV4:
        return _packed("REDIRECT", xt_layouts.NAT_IPV4, rangesize=1, **ports)
    return _packed("REDIRECT", **ports)


def _copied_mark(mode: int) -> bytes:
    """Return the target that copies all bits of a mark, from packet to connection (SAVE) or back (RESTORE)."""
    return _packed("CONNMARK", ctmask=model.ALL_BITS, nfmask=model.ALL_BITS, mode=mode)


def _packed_log(verdict: model.Log) -> bytes:
    prefix = xt_layouts.c_string(verdict.prefix, 30, "a log prefix")
    return _packed("LOG", level=xt_layouts.LOG_WARNING, prefix=prefix)


def _not_understood(part: model.UnknownMatch | model.UnknownVerdict) -> bytes:
    raise ValueError(f"a foreign rule can be kept, but not written: {part}")


ENCODERS: dict[type, Callable[[Any], bytes]] = {
    model.OwnerUid: _packed_owner,
    model.OwnerGid: _packed_owner,
    model.Mark: _packed_mark,
    model.ConnectionMark: lambda match: _packed("connmark", mark=match.value, mask=match.mask, invert=match.negated),
    model.ConnectionState: _connection_state,
    model.UnknownMatch: _not_understood,
    model.Accept: make.always(make.verdict(nf.NF_ACCEPT)),
    model.Drop: make.always(make.verdict(nf.NF_DROP)),
    model.Return: make.always(make.verdict(nf.NFT_RETURN)),
    model.Continue: make.always(b""),
    model.Jump: lambda verdict: make.jump(verdict.chain),
    model.TransparentProxy: lambda verdict: _packed(
        "TPROXY", mask=verdict.mask, mark=changed_bits(verdict.mark, verdict.mask), port=verdict.port
    ),
    model.SetMark: lambda verdict: _packed("MARK", mark=changed_bits(verdict.value, verdict.mask), mask=verdict.mask),
    model.SaveMark: lambda _: _copied_mark(xt_layouts.CONNMARK_SAVE),
    model.RestoreMark: lambda _: _copied_mark(xt_layouts.CONNMARK_RESTORE),
    model.SetZone: lambda verdict: _packed("CT", zone=verdict.zone),
    model.Log: _packed_log,
    model.UnknownVerdict: _not_understood,
}
"""The matches that are written in the order in which the rule has them, and the verdicts that need no family."""

"""Matches and targets as the kernel keeps them, in the words of iptables-save; without words by name and bytes."""

from typing import Any

import pytest

from capture.backends.iptables.xt_layouts import NAT_IPV4
from capture.backends.iptables.xt_text import (
    EXTENSION_TEXTS,
    extension_text,
    limit_text,
    network_text,
    protocol_text,
)
from capture.model.addresses import BITS, IPV4, IPV6, Family, address_text
from capture.netlink.attributes import BYTE_ORDER


def written(name: str, revision: int, fields: dict[str, Any]) -> bytes:
    layout, _ = EXTENSION_TEXTS[name, revision]
    return layout.write(**fields)


ADDRESS_TYPES = (
    *("UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST"),
    *("BLACKHOLE", "UNREACHABLE", "PROHIBIT", "THROW", "NAT", "XRESOLVE"),
)  # fmt: skip
"""As libxt_addrtype.c has them, from the lowest bit."""
PORT_80, PORT_81 = (number.to_bytes(2, BYTE_ORDER) for number in (80, 81))


@pytest.mark.parametrize(
    ("name", "revision", "fields", "words"),
    [
        ("tcp", 0, {"sport_to": 65535, "dport": 80, "dport_to": 80}, "--dport 80"),
        ("tcp", 0, {"sport": 1, "sport_to": 9, "dport_to": 65535, "invert": 1}, "! --sport 1:9"),
        ("tcp", 0, {"sport_to": 65535, "dport_to": 65535, "invert": 2}, "! --dport 0:65535"),
        ("tcp", 0, {"sport_to": 65535, "dport_to": 65535, "option": 5, "invert": 8}, "! --tcp-option 5"),
        (
            "tcp", 0, {"sport_to": 65535, "dport_to": 65535, "flags_mask": 0x12, "flags": 2},
            "--tcp-flags SYN,ACK SYN",
        ),
        ("tcp", 0, {"sport_to": 65535, "dport_to": 65535, "flags_mask": 0x3F, "invert": 4},
            "! --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE"),
        (
            "tcp", 0, {"sport": 1, "sport_to": 9, "dport_to": 65535, "option": 5, "invert": 1},
            "! --sport 1:9 --tcp-option 5",
        ),
        (
            "tcp", 0, {"sport": 1, "sport_to": 9, "dport_to": 65535, "flags_mask": 2, "flags": 2, "invert": 1},
            "! --sport 1:9 --tcp-flags SYN SYN",
        ),
        ("udp", 0, {"sport": 7, "sport_to": 7, "dport": 53, "dport_to": 54, "invert": 2}, "--sport 7 ! --dport 53:54"),
        ("icmp6", 0, {"type": 128, "code_to": 255}, "--icmpv6-type 128"),
        ("iprange", 1, {"src_min": b"\x0a\0\0\1", "src_max": b"\x0a\0\0\3", "flags": 1},
            "--src-range 10.0.0.1-10.0.0.3"),
        ("iprange", 1, {"dst_min": b"\x0a\0\0\1", "dst_max": b"\x0a\0\0\3", "flags": 2 + 32},
            "! --dst-range 10.0.0.1-10.0.0.3"),
        ("icmp", 0, {"type": 8, "code": 0, "code_to": 255}, "--icmp-type 8"),
        ("icmp", 0, {"type": 3, "code": 1, "code_to": 1, "invert": 1}, "! --icmp-type 3/1"),
        ("icmp", 0, {"type": 255, "code_to": 255}, "--icmp-type any"),
        ("addrtype", 1, {"source": 0b10, "destination": 0b100, "flags": 1}, "! --src-type UNICAST --dst-type LOCAL"),
        ("addrtype", 1, {"source": 0xFFF},
            f"--src-type {','.join(ADDRESS_TYPES)}"),
        ("addrtype", 1, {"destination": 1 << 11, "flags": 2 + 4 + 8},
            "! --dst-type XRESOLVE --limit-iface-in --limit-iface-out"),
        ("owner", 1, {"match": 1, "uid_min": 5, "uid_max": 5}, "--uid-owner 5"),
        ("owner", 1, {"match": 3, "invert": 2, "uid_min": 5, "uid_max": 9, "gid_min": 7, "gid_max": 7},
            "--uid-owner 5-9 ! --gid-owner 7"),
        ("owner", 1, {"match": 4, "invert": 4}, "! --socket-exists"),
        ("owner", 1, {"match": 7, "invert": 1, "uid_min": 5, "uid_max": 5, "gid_min": 7, "gid_max": 7},
            "--socket-exists ! --uid-owner 5 --gid-owner 7"),
        ("mark", 1, {"mark": 0x539, "mask": 0xFFFFFFFF}, "--mark 0x539"),
        ("mark", 1, {"mark": 1, "mask": 3, "invert": 1}, "! --mark 0x1/0x3"),
        ("conntrack", 3, {"match_flags": 1, "state_mask": 1 + 4}, "--ctstate INVALID,RELATED"),
        ("conntrack", 3, {"match_flags": 1, "invert_flags": 1, "state_mask": 64 + 128}, "! --ctstate SNAT,DNAT"),
        ("conntrack", 2, {"match_flags": 1 + (1 << 13), "state_mask": 8}, "--ctstate NEW"),
        ("conntrack", 3, {"match_flags": 0x208, "ports": bytes(2) + PORT_80, "ports_to": bytes(2) + PORT_81,
            "addresses": bytes(32) + b"\x0a" + bytes(15) + b"\xff"}, "--ctorigdst 10.0.0.0/8 --ctorigdstport 80:81"),
        ("conntrack", 3, {"match_flags": 0x102, "invert_flags": 0x102, "protocol": 6, "ports": PORT_80,
            "ports_to": PORT_80}, "! --ctproto 6 ! --ctorigsrcport 80"),
        ("conntrack", 3, {"match_flags": 1 << 12}, "--ctdir ORIGINAL"),
        ("conntrack", 3, {"match_flags": 1 << 12, "invert_flags": 1 << 12}, "--ctdir REPLY"),
    ],
)  # fmt: skip
def test_a_match_reads_as_iptables_prints_it(name: str, revision: int, fields: dict[str, Any], words: str) -> None:
    family = IPV6 if name == "icmp6" else IPV4
    assert extension_text(name, revision, written(name, revision, fields), family) == f"{name} {words}"


@pytest.mark.parametrize(
    ("name", "revision", "fields"),
    [
        ("owner", 1, {"match": 8}),
        ("conntrack", 3, {"match_flags": 3, "state_mask": 8}),
        ("conntrack", 3, {"match_flags": 1 << 7, "state_mask": 8}),
        ("conntrack", 1, {"match_flags": 1 << 9, "state_mask": 8}),
        ("conntrack", 3, {"match_flags": 1, "invert_flags": 2, "state_mask": 8}),
        ("conntrack", 3, {"match_flags": 1, "state_mask": 1 << 9}),
        ("multiport", 1, {"kind": 1, "count": 16}),
        ("multiport", 1, {"kind": 1, "count": 0}),
        ("multiport", 1, {"kind": 3, "count": 1}),
    ],
)
def test_a_match_with_more_in_it_is_shown_by_its_bytes(name: str, revision: int, fields: dict[str, Any]) -> None:
    words = extension_text(name, revision, written(name, revision, fields), IPV4)
    assert words.startswith(f"{name} [ revision {revision}, 0x")


@pytest.mark.parametrize(
    ("kind", "ports", "ranges", "invert", "words"),
    [
        (0, (53,), (0,), 0, "--sports 53"),
        (1, (53, 1000, 2000), (0, 1, 0), 0, "--dports 53,1000:2000"),
        (2, (1, 2, 3), (0, 0, 0), 1, "! --ports 1,2,3"),
        (1, (1, 2), (0, 1), 0, "--dports 1,2"),
    ],
)
def test_several_ports_read_as_iptables_prints_them(
    kind: int, ports: tuple[int, ...], ranges: tuple[int, ...], invert: int, words: str
) -> None:
    packed = b"".join(port.to_bytes(2, BYTE_ORDER) for port in ports)
    fields = {"kind": kind, "count": len(ports), "ports": packed, "is_range": bytes(ranges), "invert": invert}
    assert extension_text("multiport", 1, written("multiport", 1, fields), IPV4) == f"multiport {words}"


@pytest.mark.parametrize(
    ("name", "revision", "fields", "family", "words"),
    [
        ("MARK", 2, {"mark": 1, "mask": 0xFF}, IPV4, "--set-xmark 0x1/0xff"),
        ("CONNMARK", 1, {"ctmark": 1, "ctmask": 3}, IPV4, "--set-xmark 0x1/0x3"),
        ("CONNMARK", 1, {"mode": 1, "nfmask": 7, "ctmask": 3}, IPV4, "--save-mark --nfmask 0x7 --ctmask 0x3"),
        ("CONNMARK", 1, {"mode": 2, "nfmask": 7, "ctmask": 3}, IPV4, "--restore-mark --nfmask 0x7 --ctmask 0x3"),
        ("CT", 2, {"flags": 1}, IPV4, "--notrack"),
        ("CT", 2, {"flags": 2, "zone": 5}, IPV4, "--zone 5"),
        ("CT", 2, {"helper": b"ftp"}, IPV4, "--helper ftp"),
        ("REDIRECT", 0, {"flags": 2, "min_port": 5, "max_port": 9}, IPV6, "--to-ports 5-9"),
        ("REDIRECT", 0, {"flags": 2 + 4, "min_port": 5, "max_port": 5}, IPV6, "--to-ports 5 --random"),
        ("REDIRECT", 0, {}, IPV6, ""),
        ("MASQUERADE", 0, {"flags": 2 + 16, "min_port": 5, "max_port": 5}, IPV6, "--to-ports 5 --random-fully"),
        ("SNAT", 1, {"flags": 1, "min_ip": b"\x0a\0\0\1", "max_ip": b"\x0a\0\0\1"}, IPV4, "--to-source 10.0.0.1"),
        (
            "SNAT",
            2,
            {"flags": 1 + 8, "min_ip": b"\x0a\0\0\1", "max_ip": b"\x0a\0\0\3"},
            IPV4,
            "--to-source 10.0.0.1-10.0.0.3 --persistent",
        ),
        (
            "DNAT",
            1,
            {"flags": 3, "min_ip": bytes(15) + b"\1", "max_ip": bytes(15) + b"\1", "min_port": 5, "max_port": 9},
            IPV6,
            "--to-destination [::1]:5-9",
        ),
        (
            "DNAT",
            2,
            {"flags": 3, "min_ip": b"\x0a\0\0\1", "max_ip": b"\x0a\0\0\1", "min_port": 5, "max_port": 5},
            IPV4,
            "--to-destination 10.0.0.1:5",
        ),
        ("DNAT", 2, {"flags": 2, "min_port": 5, "max_port": 5}, IPV4, "--to-destination :5"),
        ("DNAT", 2, {"flags": 2, "min_port": 5, "max_port": 5}, IPV6, "--to-destination :5"),
        (
            "NETMAP",
            0,
            {"flags": 1, "min_ip": b"\xfd" + bytes(15), "max_ip": b"\xfd" + b"\xff" * 15},
            IPV6,
            "--to fd00::/8",
        ),
        (
            "TPROXY",
            1,
            {"mark": 1, "mask": 3, "address": b"\x7f\0\0\1", "port": 15006},
            IPV4,
            "--on-port 15006 --on-ip 127.0.0.1 --tproxy-mark 0x1/0x3",
        ),
        ("LOG", 0, {"level": 4, "prefix": b"a\nb"}, IPV4, '--log-prefix "a b"'),
        (
            "LOG",
            0,
            {"level": 7, "flags": 1 + 2 + 4 + 8 + 32},
            IPV4,
            "--log-level 7 --log-tcp-sequence --log-tcp-options --log-ip-options --log-uid --log-macdecode",
        ),
        ("REJECT", 0, {"answer": 9}, IPV6, "[ revision 0, 0x09 ]"),
        ("TTL", 0, {"hops": 1}, IPV4, "--ttl-set 1"),
        ("HL", 0, {"mode": 1, "hops": 2}, IPV6, "[ revision 0, 0x0102 ]"),
    ],
)
def test_a_target_reads_as_iptables_prints_it(
    name: str, revision: int, fields: dict[str, Any], family: Family, words: str
) -> None:
    structure = written(name, revision, fields)
    assert extension_text(name, revision, structure, family) == f"{name} {words}".rstrip()


@pytest.mark.parametrize("name", ["SNAT", "DNAT", "REDIRECT", "MASQUERADE", "NETMAP"])
def test_the_first_revision_of_nat_has_a_structure_of_its_own_in_ipv4(name: str) -> None:
    first, last = b"\x0a\0\0\0", b"\x0a\xff\xff\xff"
    structure = NAT_IPV4.write(rangesize=1, flags=3, min_ip=first, max_ip=last, min_port=5, max_port=5)
    where = {
        "SNAT": "--to-source 10.0.0.0-10.255.255.255:5", "DNAT": "--to-destination 10.0.0.0-10.255.255.255:5",
        "NETMAP": "--to 10.0.0.0/8",
    }  # fmt: skip
    assert extension_text(name, 0, structure, IPV4) == f"{name} {where.get(name, '--to-ports 5')}"


@pytest.mark.parametrize("family", [IPV4, IPV6])
def test_a_network_reads_as_iptables_prints_it(family: Family) -> None:
    bits = BITS[family]
    for prefix in range(bits + 1):
        mask = (1 << bits) - (1 << bits - prefix)
        address = address_text(family, mask)
        assert network_text("-s", family, mask, mask, negated=0) == f"-s {address}/{prefix}"
    holes = 1 << bits - 1 | 1
    shown = address_text(family, holes)
    assert network_text("-d", family, 0, holes, negated=1) == f"! -d {address_text(family, 0)}/{shown}"


def test_a_protocol_reads_as_iptables_prints_it() -> None:
    names = [protocol_text(number, negated=0) for number in (1, 2, 6, 17, 33, 41, 47, 50, 51, 58, 132, 136)]
    assert names == [
        f"-p {name}"
        for name in ("icmp", "igmp", "tcp", "udp", "dccp", "ipv6", "gre", "esp", "ah", "ipv6-icmp", "sctp", "udplite")
    ]
    assert protocol_text(99, negated=1) == "! -p 99"


@pytest.mark.parametrize(
    ("family", "answers"),
    [
        (IPV4, ("net-unreachable host-unreachable proto-unreachable port-unreachable - net-prohibited host-prohibited"
                " tcp-reset admin-prohibited")),
        (IPV6, "no-route adm-prohibited - addr-unreachable port-unreachable - tcp-reset policy-fail reject-route"),
    ],
)  # fmt: skip
def test_each_answer_of_a_rule_reads_as_iptables_prints_it(family: Family, answers: str) -> None:
    """By their numbers in ipt_REJECT.h and ip6t_REJECT.h; a dash is one that iptables does not write."""
    kind = "icmp" if family == IPV4 else "icmp6"
    for number, name in enumerate(answers.split()):
        words = extension_text("REJECT", 0, written("REJECT", 0, {"answer": number}), family)
        plain = "tcp-reset" if name == "tcp-reset" else f"{kind}-{name}"
        assert words == (f"REJECT [ revision 0, 0x{number:02x} ]" if name == "-" else f"REJECT --reject-with {plain}")


@pytest.mark.parametrize("more", [{"flags": 4}, {"ct_events": 1}, {"exp_events": 1}, {"timeout": b"x"}])
def test_a_zone_with_more_in_it_is_shown_by_its_bytes(more: dict[str, Any]) -> None:
    words = extension_text("CT", 2, written("CT", 2, {"zone": 1} | more), IPV4)
    assert words.startswith("CT [ revision 2, 0x")


LATEST = {
    **dict.fromkeys(("tcp", "udp", "icmp", "icmp6"), 0), **dict.fromkeys(("multiport", "addrtype", "owner"), 1),
    **dict.fromkeys(("mark", "connmark", "iprange"), 1), "conntrack": 3,
    **dict.fromkeys(("REDIRECT", "MASQUERADE", "NETMAP", "LOG", "REJECT"), 0), "TPROXY": 1,
    **dict.fromkeys(("SNAT", "DNAT", "MARK", "CONNMARK", "CT"), 2),
}  # fmt: skip
"""The latest revisions that a kernel has (``.revision`` in net/netfilter/xt_*.c)."""


@pytest.mark.parametrize("name", LATEST)
def test_a_revision_of_a_kernel_to_come_is_shown_by_its_bytes(name: str) -> None:
    structure = written(name, LATEST[name], {})
    assert f" [ revision {LATEST[name] + 1}" in extension_text(name, LATEST[name] + 1, structure, IPV4)


def test_an_unknown_extension_is_shown_by_its_bytes() -> None:
    assert extension_text("recent", 1, b"\1\2\0\0", IPV4) == "recent [ revision 1, 0x0102 ]"
    assert extension_text("recent", 1, b"\1_\0", IPV4) == "recent [ revision 1, 0x015f ]"
    assert extension_text("u32", 0, b"\1" * 16 + b"\0", IPV4) == f"u32 [ revision 0, 0x{'01' * 16} ]"
    assert extension_text("TRACE", 0, b"\0\0", IPV4) == "TRACE [ revision 0 ]"
    assert extension_text("owner", 1, written("owner", 1, {}), IPV4) == "owner [ revision 1 ]", "of nothing"
    one, other = (extension_text("u32", 0, bytes([*range(16), *bytes(1000), last]), IPV4) for last in (1, 2))
    assert one.startswith("u32 [ revision 0, 0x000102030405060708090a0b0c0d0e0f... (1017 bytes, CRC ")
    assert one != other, "two rules are told apart by what is not shown, too"
    recent = b"\x3c\0\0\0\3\0\0\0\4\0" + b"ssh-brute".ljust(200, b"\0") + b"\1"
    assert extension_text("recent", 1, recent, IPV4).startswith("recent [ revision 1, ssh-brute, 0x3c0000000300")


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((5, 60, 5, 0, 0), "-m limit --limit 5/min"),
        ((1, 1, 5, 0, 0), "-m limit --limit 1/sec"),
        ((5, 3600, 7, 0, 0), "-m limit --limit 5/hour --limit-burst 7"),
        ((5, 86400, 5, 0, 0), "-m limit --limit 5/day"),
        ((5, 61, 5, 0, 0), "[ limit 5/61s burst 5 type 0 flags 0 ]"),
        ((5, 60, 5, 1, 0), "[ limit 5/60s burst 5 type 1 flags 0 ]"),
        ((5, 60, 5, 0, 1), "[ limit 5/60s burst 5 type 0 flags 1 ]"),
    ],
)
def test_a_limit_reads_as_iptables_prints_it(numbers: tuple[int, ...], words: str) -> None:
    fields = {place: number.to_bytes(8, "big") for place, number in enumerate(numbers, 1)}
    assert limit_text(fields) == words

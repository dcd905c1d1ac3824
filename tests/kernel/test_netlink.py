"""The netlink core against a real kernel; ``ip`` and ``nft`` are the oracles."""

import errno
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capture.errors import KernelError, UnsupportedError
from capture.model.addresses import parse_address
from capture.model.conventions import IPPROTO_TCP
from capture.netlink import policy_rules, routing
from capture.netlink.attributes import attribute, c_string, decode_elements, decode_fields, decode_text, nested, u32be
from capture.netlink.interfaces import add_address, read_addresses, read_links, remove_address
from capture.netlink.messages import NLM_F_CREATE
from capture.netlink.nfnetlink import Change, RulesetChangedError, commit, open_nfnetlink, read_generation, read_objects
from capture.netlink.routing import Route, look_up_route
from capture.netlink.rtnetlink import AF_INET, AF_INET6, LOOPBACK_INDEX, open_rtnetlink
from capture.netlink.sockets import NetlinkSocket
from pytest_netns import Namespace, NamespaceFactory, PodPair, require

CHECKOUT = Path(__file__).parents[2]

# linux/netfilter.h and linux/netfilter/nf_tables.h, as far as these tests use nf_tables
INET = 1
NEWTABLE, NEWCHAIN, GETCHAIN, NEWSET, NEWSETELEM, GETSETELEM = 0, 3, 4, 9, 12, 13
TABLE = attribute(1, c_string("t"))
CREATE_TABLE = Change(NEWTABLE, INET, TABLE, "create table inet t", NLM_F_CREATE)
FAMILIES = {"ipv4": AF_INET, "ipv6": AF_INET6}


def chain(name: str, table: str = "t") -> Change:
    attributes = attribute(1, c_string(table)) + attribute(3, c_string(name))
    return Change(NEWCHAIN, INET, attributes, f"create chain {name} in table inet {table}", NLM_F_CREATE)


@pytest.fixture
def space(netns: NamespaceFactory) -> Namespace:
    return netns()


@pytest.fixture
def netfilter(space: Namespace) -> Iterator[NetlinkSocket]:
    with space.call(open_nfnetlink) as opened:
        yield opened


@pytest.fixture
def rtnetlink(space: Namespace) -> Iterator[NetlinkSocket]:
    with space.call(open_rtnetlink) as opened:
        yield opened


def chains(space: Namespace) -> list[str]:
    """Return the chains of the namespace as nft lists them."""
    listed = json.loads(space.run(["nft", "-j", "list", "chains"]).stdout)["nftables"]
    return [entry["chain"]["name"] for entry in listed if "chain" in entry]


def ip_json(space: Namespace, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(space.run(["ip", "-j", *words]).stdout or "[]")
    return found


def run_python(space: Namespace, program: str, *prefix: str, uid: int | None = None) -> str:
    """Run a program that may import this checkout; return what it printed, errors as "Class: message"."""
    body = textwrap.indent(textwrap.dedent(program), "    ")
    start = f"import sys; sys.path[:0] = {[str(CHECKOUT), str(CHECKOUT / 'tests'), str(Path(__file__).parent)]}"
    lines = [start, "from capture.errors import CaptureError", "try:", body]
    lines += ["except CaptureError as error:", "    print(f'{type(error).__name__}: {error}')"]
    command = [*prefix, sys.executable, "-I", "-c", "\n".join(lines)]
    return space.run(command, uid=uid, reads_everything=uid is not None).stdout


class TestBatch:
    def test_nft_lists_committed_rules(self, space: Namespace, netfilter: NetlinkSocket) -> None:
        commit(netfilter, [CREATE_TABLE, chain("a"), chain("b")])
        assert chains(space) == ["a", "b"]

    def test_objects_are_read_back(self, space: Namespace, netfilter: NetlinkSocket) -> None:
        space.run(["nft", "add table inet t; add chain inet t a; add table ip six; add chain ip six b"])
        found = read_objects(netfilter, GETCHAIN, 0, b"", "list chains")
        assert [(family, decode_text(decode_fields(chain)[3])) for family, chain in found] == [(1, "a"), (2, "b")]

    def test_nothing_is_applied_when_the_last_change_fails(self, space: Namespace, netfilter: NetlinkSocket) -> None:
        with pytest.raises(KernelError, match=r"^create chain b in table inet missing: No such file .*at byte 20"):
            commit(netfilter, [CREATE_TABLE, chain("a"), chain("b", table="missing")])
        assert chains(space) == []

    def test_the_error_says_which_change_was_refused(self, netfilter: NetlinkSocket) -> None:
        changes = [CREATE_TABLE, chain("a"), chain("b", table="missing"), chain("c"), chain("d", table="missing")]
        with pytest.raises(KernelError) as caught:
            commit(netfilter, changes)
        assert caught.value.errno == errno.ENOENT
        assert str(caught.value).startswith("create chain b in table inet missing:")

    def test_the_socket_works_on_after_an_error(self, space: Namespace, netfilter: NetlinkSocket) -> None:
        with pytest.raises(KernelError):
            commit(netfilter, [chain("a")])
        commit(netfilter, [CREATE_TABLE, chain("a")])
        assert chains(space) == ["a"]

    def test_more_errors_than_the_socket_can_hold_still_name_the_first(self, netfilter: NetlinkSocket) -> None:
        changes = [CREATE_TABLE, *(chain(f"c{number}", table="missing") for number in range(5000))]
        with pytest.raises(KernelError, match=r"^create chain c0 in table inet missing: No such file"):
            commit(netfilter, changes)
        assert read_objects(netfilter, GETCHAIN, INET, b"", "list chains") == []

    def test_a_batch_for_another_generation_changes_nothing(self, space: Namespace, netfilter: NetlinkSocket) -> None:
        generation = read_generation(netfilter)
        space.run(["nft", "add table inet foreign"])
        with pytest.raises(RulesetChangedError, match=r"^program the pod: .*another process changed the ruleset"):
            commit(netfilter, [CREATE_TABLE, chain("a")], generation, "program the pod")
        assert chains(space) == []
        commit(netfilter, [CREATE_TABLE, chain("a")], read_generation(netfilter))
        assert chains(space) == ["a"]

    @pytest.mark.parametrize("size", [10_000, 50_000])
    def test_large_sets_take_one_transaction(self, space: Namespace, netfilter: NetlinkSocket, size: int) -> None:
        generation = read_generation(netfilter)
        changes = [CREATE_TABLE, *large_set(size)]
        assert sum(len(change.attributes) for change in changes) > 16 * size  # more than a socket buffers at first
        commit(netfilter, changes)
        assert read_generation(netfilter) == generation + 1
        lists = read_objects(netfilter, GETSETELEM, INET, TABLE + attribute(2, c_string("s")), "list elements of set s")
        assert sum(len(decode_elements(decode_fields(found)[3])) for _, found in lists) == size
        assert space.run(["nft", "list set inet t s"]).stdout.count(",") == size - 1

    def test_without_privilege_the_error_is_about_privilege(self, space: Namespace) -> None:
        printed = run_python(
            space,
            """
            from capture.netlink.nfnetlink import Change, commit
            from capture.netlink.nfnetlink import open_nfnetlink
            with open_nfnetlink() as netfilter:
                commit(netfilter, [Change(0, 1, b"", "create a table")], task="program the pod")
            """,
            uid=1000,
        )
        assert printed.startswith("PrivilegeError: not permitted to program the pod\n")

    def test_in_a_user_namespace_the_send_buffer_has_a_limit(self, space: Namespace) -> None:
        can = space.run(["unshare", "-Urn", "true"], check=False).returncode == 0
        require(can, "user namespaces cannot be made here")
        at_first, at_most = (
            int(Path(f"/proc/sys/net/core/{name}").read_text(encoding="ascii")) for name in ("wmem_default", "wmem_max")
        )
        printed = run_python(  # the kernel takes messages of zeros for the end of a datagram
            space,
            f"""
            from capture.netlink.nfnetlink import open_nfnetlink
            with open_nfnetlink() as netfilter:
                netfilter.send(bytes({at_first}), "send what needs a larger buffer")
                print("sent")
                netfilter.send(bytes({3 * at_most}), "send too much")
            """,
            *("unshare", "-Urn"),
        )
        assert printed.startswith(f"sent\nKernelError: send too much: Message too long ({3 * at_most} bytes at once")


def large_set(size: int) -> list[Change]:
    """Return the changes that make a set of addresses from 10.0.0.0 on; 1,500 fit one attribute."""
    name = attribute(2, c_string("s"))
    described = attribute(4, u32be(7)) + attribute(5, u32be(4)) + attribute(10, u32be(1))  # ipv4_addr, 4 bytes, id
    changes = [Change(NEWSET, INET, TABLE + name + attribute(3, u32be(0)) + described, "create set s", NLM_F_CREATE)]
    for first in range(0, size, 1500):
        elements = [
            nested(1, nested(1, attribute(1, u32be(0x0A000000 + number))))
            for number in range(first, min(first + 1500, size))
        ]
        changes.append(Change(NEWSETELEM, INET, TABLE + name + nested(3, *elements), f"fill set s from {first}"))
    return changes


class TestInterfaces:
    def test_links_are_those_of_ip(self, space: Namespace, rtnetlink: NetlinkSocket) -> None:
        space.ip("link add eth0 type veth peer name a-name-of-15-by", "link set eth0 up")
        expected = {(link["ifindex"], link["ifname"], "UP" in link["flags"]) for link in ip_json(space, "link")}
        links = read_links(rtnetlink)
        assert {(link.index, link.name, link.is_up) for link in links} == expected
        assert [link.name for link in links if link.is_loopback] == ["lo"]
        assert links[0].index == LOOPBACK_INDEX

    def test_addresses_are_those_of_ip(self, pod_pair: PodPair) -> None:
        pod = pod_pair.pod
        pod.ip(
            "address add 10.9.0.1 peer 10.9.0.2/32 dev eth0",  # IFA_LOCAL and IFA_ADDRESS differ
            "address add 10.77.0.9/24 dev eth0",
            "address add fd77::9/64 dev eth0 nodad",
        )
        expected = {
            (parse_address(info["local"]), link["ifindex"])
            for link in ip_json(pod, "address")
            for info in link["addr_info"]
        }
        with pod.call(open_rtnetlink) as route:
            found = read_addresses(route)
            assert len(read_addresses(route, AF_INET)) + len(read_addresses(route, AF_INET6)) == len(found)
        assert len(expected) == len(found) == 8
        assert {(one.address, one.interface) for one in found} == expected

    @pytest.mark.parametrize(("address", "prefix_length"), [("::6", 128), ("127.0.0.6", 32)])
    def test_an_address_comes_and_goes(
        self, space: Namespace, rtnetlink: NetlinkSocket, address: str, prefix_length: int
    ) -> None:
        def listed() -> list[dict[str, Any]]:
            (lo,) = ip_json(space, "address", "show", "dev", "lo")
            return [info for info in lo["addr_info"] if info["local"] == address]

        before = ip_json(space, "address")
        assert add_address(rtnetlink, address, prefix_length)
        assert not add_address(rtnetlink, address, prefix_length)
        (info,) = listed()
        assert info["prefixlen"] == prefix_length
        assert "tentative" not in info
        assert remove_address(rtnetlink, address, prefix_length)
        assert not remove_address(rtnetlink, address, prefix_length)
        assert ip_json(space, "address") == before

    def test_an_unknown_interface_is_named(self, rtnetlink: NetlinkSocket) -> None:
        with pytest.raises(KernelError, match=r"^add address ::6/128 to interface 77: No such device"):
            add_address(rtnetlink, "::6", 128, interface=77)

    def test_where_ipv6_is_off_the_error_says_so(self, space: Namespace, rtnetlink: NetlinkSocket) -> None:
        space.sysctl("net.ipv6.conf.lo.disable_ipv6", 1)
        with pytest.raises(UnsupportedError, match="IPv6 is switched off there"):
            add_address(rtnetlink, "::6", 128)
        assert not remove_address(rtnetlink, "::6", 128)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("table", [133, 70_000])
class TestPolicyRouting:
    def test_a_rule_comes_once_and_goes(
        self, space: Namespace, rtnetlink: NetlinkSocket, family: str, table: int
    ) -> None:
        def listed() -> list[tuple[str, str]]:
            rules = ip_json(space, f"-{family[-1]}", "rule")
            return [(rule["fwmark"], rule["table"]) for rule in rules if "fwmark" in rule]

        before = ip_json(space, f"-{family[-1]}", "rule")
        rule = (FAMILIES[family], 1337, table)
        assert not policy_rules.has_mark_rule(rtnetlink, *rule)
        assert policy_rules.set_mark_rule(rtnetlink, *rule, 1)
        assert not policy_rules.set_mark_rule(rtnetlink, *rule, 1)
        assert policy_rules.has_mark_rule(rtnetlink, *rule)
        assert listed() == [("0x539", str(table))]
        assert policy_rules.remove_mark_rule(rtnetlink, *rule)
        assert not policy_rules.remove_mark_rule(rtnetlink, *rule)
        assert ip_json(space, f"-{family[-1]}", "rule") == before

    def test_a_rule_made_by_ip_counts_as_our_own_and_all_copies_go(
        self, space: Namespace, rtnetlink: NetlinkSocket, family: str, table: int
    ) -> None:
        ip = f"-{family[-1]}"
        for priority in ("100", "200"):
            space.run(["ip", ip, "rule", "add", "fwmark", "1337", "lookup", str(table), "pref", priority])
        rule = (FAMILIES[family], 1337, table)
        assert policy_rules.set_mark_rule(rtnetlink, *rule, 1)
        assert [line for line in space.run(["ip", ip, "rule"]).stdout.splitlines() if "fwmark" in line] == [
            f"1:\tfrom all fwmark 0x539 lookup {table}"
        ]
        space.run(["ip", ip, "rule", "add", "fwmark", "1337", "lookup", str(table), "pref", "100"])
        assert policy_rules.remove_mark_rule(rtnetlink, *rule)
        assert "fwmark" not in space.run(["ip", ip, "rule"]).stdout

    @pytest.mark.parametrize(
        "foreign",
        [
            "fwmark 1337/0xffff lookup {table}",
            "fwmark 1338 lookup {table}",
            "fwmark 1337 lookup 99",
            "not fwmark 1337 lookup {table}",
            "fwmark 1337 iif lo lookup {table}",
            "fwmark 1337 oif lo lookup {table}",
            "fwmark 1337 uidrange 5-6 lookup {table}",
            "fwmark 1337 ipproto tcp lookup {table}",
            "fwmark 1337 dport 80 lookup {table}",
            "fwmark 1337 tos 0x10 lookup {table}",
            "fwmark 1337 lookup {table} suppress_prefixlength 0",
            "fwmark 1337 prohibit",
            "lookup {table}",
        ],
    )
    def test_rules_with_other_conditions_are_foreign(
        self, space: Namespace, rtnetlink: NetlinkSocket, family: str, table: int, foreign: str
    ) -> None:
        ip = f"-{family[-1]}"
        space.run(["ip", ip, "rule", "add", *foreign.format(table=table).split(), "pref", "100"])
        before = space.run(["ip", ip, "rule"]).stdout
        rule = (FAMILIES[family], 1337, table)
        assert policy_rules.set_mark_rule(rtnetlink, *rule, 1)
        assert policy_rules.remove_mark_rule(rtnetlink, *rule)
        assert space.run(["ip", ip, "rule"]).stdout == before

    def test_a_local_route_comes_once_and_goes(
        self, space: Namespace, rtnetlink: NetlinkSocket, family: str, table: int
    ) -> None:
        def listed() -> list[tuple[str, str, str]]:
            shown = space.run(["ip", "-j", f"-{family[-1]}", "route", "show", "table", str(table)], check=False).stdout
            return [(entry["type"], entry["dst"], entry["dev"]) for entry in json.loads(shown or "[]")]

        where = (FAMILIES[family], table)
        assert not routing.remove_local_route(rtnetlink, *where)
        assert routing.add_local_route(rtnetlink, *where)
        assert not routing.add_local_route(rtnetlink, *where)
        assert routing.has_local_route(rtnetlink, *where)
        assert listed() == [("local", "default", "lo")]
        assert routing.remove_local_route(rtnetlink, *where)
        assert not routing.remove_local_route(rtnetlink, *where)
        assert not routing.has_local_route(rtnetlink, *where)
        assert listed() == []

    def test_a_foreign_default_route_is_not_taken_for_our_own(
        self, space: Namespace, rtnetlink: NetlinkSocket, family: str, table: int
    ) -> None:
        metric = "0" if family == "ipv4" else "1024"
        default = ["unreachable", "default", "table", str(table), "metric", metric]
        space.run(["ip", f"-{family[-1]}", "route", "add", *default])
        where = (FAMILIES[family], table)
        assert not routing.has_local_route(rtnetlink, *where)
        with pytest.raises(KernelError, match=f"route local default dev lo table {table}: File exists"):
            routing.add_local_route(rtnetlink, *where)
        assert not routing.remove_local_route(rtnetlink, *where)


def test_without_privilege_routes_stay(space: Namespace) -> None:
    printed = run_python(
        space,
        """
        from capture.netlink.interfaces import read_addresses
        from capture.netlink.policy_rules import set_mark_rule
        from capture.netlink.rtnetlink import open_rtnetlink
        with open_rtnetlink() as route:
            print(len(read_addresses(route)))
            set_mark_rule(route, 2, 1337, 133, 1)
        """,
        uid=1000,
    )
    assert printed.startswith("2\nPrivilegeError: not permitted to add IPv4 policy rule fwmark 0x539 lookup 133\n")


def test_policy_rules_have_the_words_of_ip(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    whole = "to 10.0.0.0/8 tos 0x10 fwmark 0x5/0x7 iif lo oif lo uidrange 5-9 ipproto tcp sport 80-90 dport 81"
    added = (whole + " lookup 77", "ipproto udp tun_id 7 prohibit", "goto 32766", "sport 8080 lookup 77", "nop")
    pod.ip(*(f"rule add pref {number} {rule}" for number, rule in enumerate((*added, "not from 1.2.3.4 blackhole"), 5)))

    with pod.call(open_rtnetlink) as route:
        found = [str(rule) for rule in policy_rules.read_policy_rules(route, FAMILIES["ipv4"])]

    listed = pod.run(["ip", "rule"]).stdout.replace("\t", " ").replace("from 1.2.3.4 ", "from 1.2.3.4/32 ")
    assert found == [line.strip() for line in listed.splitlines()]


class TestLookup:
    @pytest.mark.parametrize(
        ("destination", "options"),
        [
            ("10.77.0.3", {}),
            ("10.77.0.2", {}),
            ("127.0.0.1", {}),
            ("198.51.100.1", {}),
            ("198.51.100.1", {"source": "10.77.0.2"}),
            ("198.51.100.1", {"mark": 1337}),
            ("198.51.100.1", {"uid": 1000}),
            ("198.51.100.1", {"uid": 1001}),
            ("fd77::3", {}),
            ("fd77::2", {}),
            ("::1", {}),
            ("2001:db8::1", {}),
            ("2001:db8::1", {"source": "fd77::2"}),
            ("2001:db8::1", {"mark": 1337}),
            ("2001:db8::1", {"uid": 1000}),
        ],
    )
    def test_packets_go_where_ip_says(self, pod_pair: PodPair, destination: str, options: dict[str, Any]) -> None:
        pod = pod_pair.pod
        with pod.call(open_rtnetlink) as route:
            for name, family in FAMILIES.items():
                routing.add_local_route(route, family, 133)
                policy_rules.set_mark_rule(route, family, 1337, 133, 1)
                pod.run(["ip", f"-{name[-1]}", "rule", "add", "uidrange", "1000-1000", "lookup", "133"])
            found = look_up_route(route, destination, IPPROTO_TCP, **options)
            names = {link.index: link.name for link in read_links(route)}
        words = ["ipproto", "tcp"]
        words += [word for name, value in options.items() for word in (name.replace("source", "from"), str(value))]
        (expected,) = ip_json(pod, "route", "get", destination, *words)
        assert {"local": routing.RTN_LOCAL, "unicast": routing.RTN_UNICAST}[
            expected.get("type", "unicast")
        ] == found.kind
        assert names[found.interface] == expected["dev"]
        assert found.source == expected.get("prefsrc", "")

    @pytest.mark.parametrize("kind", ["unreachable", "prohibit", "blackhole"])
    @pytest.mark.parametrize("destination", ["198.51.100.1", "2001:db8::1"])
    def test_refusing_routes_are_distinguished(self, pod_pair: PodPair, destination: str, kind: str) -> None:
        pod = pod_pair.pod
        pod.ip(f"route add {kind} {destination}")
        with pod.call(open_rtnetlink) as route:
            assert look_up_route(route, destination, IPPROTO_TCP) == Route(getattr(routing, f"RTN_{kind.upper()}"))

    @pytest.mark.parametrize("destination", ["198.51.100.1", "2001:db8::1"])
    def test_no_route_is_unreachable(self, rtnetlink: NetlinkSocket, destination: str) -> None:
        assert look_up_route(rtnetlink, destination, IPPROTO_TCP) == Route(routing.RTN_UNSPEC)

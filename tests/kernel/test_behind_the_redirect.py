"""Filters that meet a connection after our rules have sent it to the proxy: in the kernel's order, shown by traffic."""

import json
import re

import pytest

from capture import operations
from capture.model.addresses import parse_address
from capture.model.packet import Packet
from capture.operations.diagnosis import why
from capture.settings.options import INTERCEPTION_MODE, IP_FAMILIES
from pytest_netns import Endpoint, PodPair
from support.captures.agreeing import assert_the_connections_agree, pod_read_once
from support.captures.settings import DRIVERS, settings
from support.processes.our_programs import run_program
from support.traffic.proxies import one_proxy
from support.traffic.transparent_proxy import GID, MARK, UID

ELSEWHERE = "203.0.113.7"
TO_POD = "iptables-nft -t nat -I OUTPUT -p tcp --dport 80 -j DNAT --to-destination {pod}:8080"
NFT = "nft add table ip x; nft add chain ip x c '{{ type filter hook %s; }}'; nft add rule ip x c '%s'"
NAT = NFT.replace("filter", "nat")
NAT_OF_BOTH = "nft 'table inet x {{ chain c {{ type nat hook output priority -110; %s; }}; }}'"

TO_BLACKHOLE = "ip rule add fwmark 5 lookup 7; ip route add blackhole default table 7"
MARKED = (
    "ip rule add fwmark 5 lookup 7; iptables-nft -t mangle -A OUTPUT -p tcp --dport 80"
    " -m owner --uid-owner 1000 -j MARK --set-mark 5"
)
OTHER_DEVICE = (
    "ip link add net1 type veth peer name net2; ip link set net1 up; ip link set net2 up;"
    " ip route add default dev net1 table 7"
)

CASES: dict[str, tuple[str, str]] = {
    "input": ("iptables-nft -A INPUT -i lo -p tcp --dport 15001 -j DROP", "dropped"),
    "input, legacy": ("iptables-legacy -A INPUT -i lo -p tcp --dport 15001 -j DROP", "dropped"),
    "input, native": (NFT % ("input priority 0", "tcp dport 15001 reject"), "dropped"),
    "input, the first port": ("iptables-nft -A INPUT -p tcp --dport 80 -j DROP", "proxy"),
    "input, the first interface": ("iptables-nft -A INPUT -i eth0 -p tcp --dport 15001 -j DROP", "proxy"),
    "input, a policy": ("iptables-nft -P INPUT DROP; iptables-nft -A INPUT -i eth0 -j ACCEPT", "dropped"),
    "input, later packets": (
        "iptables-nft -A INPUT -i lo -p tcp --dport 15001 -m conntrack --ctstate ESTABLISHED -j DROP",
        "dropped",
    ),
    "input, new and established": (
        "iptables-nft -P INPUT DROP; iptables-nft -A INPUT -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT",
        "proxy",
    ),
    "input, answers": ("iptables-nft -A INPUT -i eth0 -m conntrack --ctstate ESTABLISHED -j ACCEPT", "proxy"),
    "output": ("iptables-nft -A OUTPUT -o eth0 -p tcp --dport 15001 -j REJECT", "dropped"),
    "output, the new interface": ("iptables-nft -A OUTPUT -o lo -p tcp --dport 15001 -j REJECT", "proxy"),
    "postrouting": ("iptables-nft -t mangle -A POSTROUTING -o lo -p tcp --dport 15001 -j DROP", "dropped"),
    "postrouting, the first interface": (
        "iptables-nft -t mangle -A POSTROUTING -o eth0 -p tcp --dport 15001 -m owner --uid-owner 1000 -j DROP",
        "proxy",
    ),
    "over lo without a socket": (NFT % ("prerouting priority -350", "iifname lo meta skuid 1000 drop"), "proxy"),
    "over lo": (NFT % ("prerouting priority -350", "iifname lo tcp dport 15001 drop"), "dropped"),
    "translated, behind at output": (
        f"{TO_POD}; iptables-nft -A OUTPUT -o eth0 -p tcp --dport 8080 -j DROP",
        "dropped",
    ),
    "translated, the new interface": (f"{TO_POD}; iptables-nft -A OUTPUT -o lo -p tcp --dport 8080 -j DROP", "app"),
    "translated, at input": (f"{TO_POD}; iptables-nft -A INPUT -i lo -p tcp --dport 8080 -j DROP", "dropped"),
    "to a local address": (
        "iptables-nft -A OUTPUT -m addrtype --dst-type LOCAL -p tcp --dport 15001 -j DROP",
        "dropped",
    ),
    "to no local address, legacy": (
        "iptables-legacy -A INPUT -m addrtype ! --dst-type LOCAL -p tcp --dport 15001 -j DROP",
        "proxy",
    ),
    "from a local address": (
        "iptables-nft -A INPUT -m addrtype --src-type LOCAL -p tcp --dport 15001 -j DROP",
        "dropped",
    ),
    "to a local address, native": (NFT % ("input priority 0", "fib daddr type local tcp dport 15001 drop"), "dropped"),
    "from no local address, native": (
        NFT % ("input priority 0", "fib saddr type != local tcp dport 15001 drop"),
        "proxy",
    ),
    "from and to ranges": (
        "iptables-nft -A OUTPUT -m iprange --src-range 10.0.0.1-10.255.0.0 --dst-range 127.0.0.1-127.0.0.9 -j DROP",
        "dropped",
    ),
    "to no range, legacy": (
        "iptables-legacy -t mangle -A OUTPUT -p tcp -m iprange ! --dst-range 203.0.113.8-203.0.113.99 -j DROP",
        "dropped",
    ),
    "from no range to another": (
        "iptables-nft -A OUTPUT -m iprange ! --src-range 10.9.0.3-10.9.0.5 --dst-range 1.0.0.1-1.0.0.3 -p udp -j DROP",
        "proxy",
    ),
    "to a range, native": (NFT % ("output priority -200", "ip daddr 203.0.113.3-203.0.113.8 drop"), "dropped"),
    "conditions behind a log": (NFT % ("output priority -150", "log level info udp dport 80-81 drop"), "proxy"),
    "conditions behind a log hold": (NFT % ("output priority 0", "log group 3 tcp dport 15000-15001 drop"), "dropped"),
    "conditions behind a mark": (NFT % ("output priority -150", "meta mark set 5 meta mark 0 drop"), "proxy"),
    "conditions behind what may end a rule": (
        (
            "nft 'table ip x {{ set s {{ type ipv4_addr; flags dynamic; }};"
            " chain c {{ type filter hook output priority 0;"
            " udp dport 53 add @s {{ ip daddr limit rate 1/day }} drop; add @s {{ ip daddr }} drop; }}; }}'"
        ),
        "dropped",
    ),
    "untracked too late": (NFT % ("output priority -150", "notrack"), "proxy"),
    "in by index": (NFT % ("input priority 0", "iif lo tcp dport 15001 drop"), "dropped"),
    "in by another index": (NFT % ("input priority 0", "iif eth0 tcp dport 15001 drop"), "proxy"),
    "in by no index": (NFT % ("output priority -200", "iif != lo tcp dport 80 drop"), "dropped"),
    "out by index": (NFT % ("output priority 0", "oif eth0 tcp dport 15001 drop"), "dropped"),
    "a port by a map": (NFT % ("output priority -200", "tcp dport vmap {{ 80 : drop, 443 : accept }}"), "dropped"),
    "a redirected port by a map": (
        NFT % ("input priority 0", "iif lo tcp dport vmap {{ 15000-15005 : drop, 81 : accept }}"),
        "dropped",
    ),
    "udp ports by a map": (NFT % ("output priority -200", "udp dport vmap {{ 80 : drop, 90-99 : drop }}"), "proxy"),
    "interfaces by a map": (NFT % ("input priority 0", "iifname vmap {{ lo : drop, eth1 : accept }}"), "dropped"),
    "an interface and a port by a map": (
        NFT % ("input priority 0", "iifname . tcp dport vmap {{ eth0 . 15001 : drop, lo . 80 : drop }}"),
        "proxy",
    ),
    "interfaces of a set": (NFT % ("input priority 0", "iifname {{ lo, eth1 }} tcp dport 15001 drop"), "dropped"),
    "interfaces of no set": (
        NFT % ("input priority 0", "iifname != {{ lo, eth1 }} tcp dport 15001 ip daddr 127.0.0.1 drop"),
        "proxy",
    ),
    "families by a map": (NFT % ("input priority 0", "meta protocol vmap {{ ip6 : accept, ip : drop }}"), "dropped"),
    "an address by a map": (
        NAT % ("output priority -110", "dnat to ip daddr map {{ 203.0.113.7 : 198.51.100.7 }}"),
        "app",
    ),
    "an address and a port by a map of both": (
        NAT
        % (
            "output priority -110",
            "meta l4proto tcp dnat to ip daddr . tcp dport map {{ 203.0.113.7 . 80 : 198.51.100.7 . 80 }}",
        ),
        "app",
    ),
    "an address by a verdict for three fields": (
        (
            "nft 'table ip x {{ chain d {{ meta l4proto tcp dnat to 198.51.100.7; }};"
            " chain c {{ type nat hook output priority -110;"
            " ip daddr . meta l4proto . th dport vmap {{ 203.0.113.7 . tcp . 80 : goto d }}; }}; }}'"
        ),
        "app",
    ),
    "an address of IPv4 in a table of both families": (NAT_OF_BOTH % "tcp dport 80 dnat ip to 198.51.100.7:80", "app"),
    "an address of each family in one table": (
        NAT_OF_BOTH % "tcp dport 80 dnat ip6 to [2001:db8::77]:80; tcp dport 80 dnat ip to 198.51.100.7",
        "app",
    ),
    "later fragments, which are put together before": ("iptables-nft -A INPUT -f -j DROP", "proxy"),
    "later fragments, native": (NFT % ("input priority 0", "ip frag-off & 0x1fff != 0 drop"), "proxy"),
    "copied to another host, and with a helper": (
        (
            "iptables-nft -t mangle -A PREROUTING -j TEE --gateway 10.0.0.9;"
            " iptables-legacy -t raw -A PREROUTING -p tcp --dport 8080 -j CT --helper ftp"
        ),
        "proxy",
    ),
    "the same port of the pod": ("iptables-nft -t nat -I OUTPUT -p tcp --dport 80 -j REDIRECT", "app"),
    "the same port of the pod, native": (NAT % ("output priority -110", "tcp dport 80 redirect"), "app"),
    "another host's source over lo": ("iptables-nft -t nat -A POSTROUTING -j SNAT --to-source 192.0.2.1", "dropped"),
    "another host's source over lo, legacy": (
        "iptables-legacy -t nat -A POSTROUTING -o lo -p tcp -j SNAT --to-source 192.0.2.1-192.0.2.9",
        "dropped",
    ),
    "another host's source over lo, native": (NAT % ("postrouting priority 100", "snat to 192.0.2.1"), "dropped"),
    "another host's source by eth0": (
        "iptables-nft -t nat -A POSTROUTING -o eth0 -j SNAT --to-source 192.0.2.1",
        "proxy",
    ),
    "another host's source behind a masquerade": (
        (
            "iptables-nft -t nat -A POSTROUTING -o lo -j MASQUERADE;"
            " iptables-nft -t nat -A POSTROUTING -j SNAT --to-source 192.0.2.1"
        ),
        "proxy",
    ),
    "the pod's own source": ("iptables-nft -t nat -A POSTROUTING -j SNAT --to-source {pod}", "proxy"),
    "states by a map": (
        NFT % ("output priority -150", "ct state vmap {{ new : drop, established : accept }}"),
        "dropped",
    ),
    "other states by a map": (
        NFT % ("output priority -150", "ct state vmap {{ invalid : drop, established : accept }}"),
        "proxy",
    ),
    "states before connections are tracked": (
        NFT % ("output priority -300", "ct state vmap {{ new : drop, established : drop }}"),
        "proxy",
    ),
    "invalid before connections are tracked": (
        "iptables-nft -t raw -A OUTPUT -p tcp --dport 80 -m conntrack --ctstate INVALID -j DROP",
        "dropped",
    ),
    "invalid before connections are tracked, over lo": (
        "iptables-legacy -t raw -A PREROUTING -i lo -p tcp -m conntrack --ctstate INVALID -j DROP",
        "proxy",
    ),
    "a connection's first flags": (
        NFT % ("output priority 0", "tcp dport 15001 tcp flags & (fin | syn | rst | ack) == syn drop"),
        "dropped",
    ),
    "a connection's first flags, before it is tracked": (
        "iptables-nft -t raw -A OUTPUT -p tcp --dport 80 --syn -m conntrack ! --ctstate NEW -j DROP",
        "dropped",
    ),
    "a connection's first flags, iptables": ("iptables-nft -A OUTPUT -p tcp --syn -j DROP", "dropped"),
    "flags of no connection": (NFT % ("output priority 0", "tcp flags & (fin | syn) == fin | syn drop"), "proxy"),
    "flags of no connection, iptables": (
        (
            "iptables-nft -A OUTPUT -p tcp --tcp-flags ALL NONE -j DROP;"
            " iptables-legacy -A INPUT -p tcp ! --syn -m conntrack --ctstate NEW -j DROP"
        ),
        "proxy",
    ),
    "a network for another": (
        "iptables-nft -t nat -I OUTPUT -p tcp -d 203.0.113.0/24 -j NETMAP --to 198.51.100.0/24",
        "app",
    ),
    "a network for another, legacy": (
        "iptables-legacy -t nat -I OUTPUT -p tcp -d 203.0.113.0/24 -j NETMAP --to 198.51.100.0/24",
        "app",
    ),
    "a network for another, of udp": (
        "iptables-nft -t nat -I OUTPUT -p udp -d 203.0.113.0/24 -j NETMAP --to 198.51.100.0/24",
        "proxy",
    ),
    "marked for a blackhole": (f"{MARKED}; ip route add blackhole default table 7", "dropped"),
    "marked for a blackhole, legacy": (
        f"{MARKED.replace('-nft', '-legacy')}; ip route add blackhole default table 7",
        "dropped",
    ),
    "marked for what is unreachable": (f"{MARKED}; ip route add unreachable 203.0.113.0/24 table 7", "dropped"),
    "marked for a rule that refuses": (f"{MARKED}; ip rule del fwmark 5; ip rule add fwmark 5 prohibit", "dropped"),
    "marked for an empty table": (MARKED, "proxy"),
    **{
        f"marked for a blackhole, behind {selector}": (
            (
                f"{MARKED}; ip route add blackhole 203.0.113.0/24 table 7; ip route add default dev eth0 table 8;"
                f" ip rule add pref 100 {selector} lookup 8"
            ),
            expected,
        )
        for selector, expected in (
            ("from {pod}", "proxy"),
            ("from 10.9.9.9", "dropped"),
            ("to 203.0.113.0/24", "proxy"),
            ("to 198.51.100.0/24", "dropped"),
            ("iif eth0", "dropped"),
        )
    },
    "marked behind the main table": (
        f"{MARKED}; ip rule del fwmark 5; {TO_BLACKHOLE.replace('add', 'add pref 40000', 1)}",
        "proxy",
    ),
    "marked for another device": (f"{MARKED}; {OTHER_DEVICE}", "proxy"),
    "marked by a chain of type route": (
        (
            f"{TO_BLACKHOLE}; "
            + (NFT % ("output priority -150", "tcp dport 80 meta mark set 5")).replace("filter hook", "route hook")
        ),
        "dropped",
    ),
    "marked by a filter": (
        f"{TO_BLACKHOLE}; {NFT % ('output priority -150', 'tcp dport 80 meta mark set 5')}",
        "proxy",
    ),
    "marked too early": (
        f"{TO_BLACKHOLE}; iptables-nft -t raw -A OUTPUT -p tcp --dport 80 -j MARK --set-mark 5",
        "proxy",
    ),
    "marked by two": (
        (
            "ip rule add fwmark 5/15 lookup 7; ip route add blackhole default table 7;"
            " iptables-nft -t raw -A OUTPUT -p tcp --dport 80 -j MARK --set-mark 5;"
            " iptables-nft -t mangle -A OUTPUT -p tcp --dport 80 -j MARK --or-mark 0x100"
        ),
        "dropped",
    ),
    "marked and back": (
        (
            f"{TO_BLACKHOLE}; iptables-nft -t mangle -A OUTPUT -p tcp --dport 80 -j MARK --set-mark 5;"
            " iptables-nft -t mangle -A OUTPUT -p tcp --dport 80 -j MARK --set-mark 0"
        ),
        "proxy",
    ),
    "marked and translated": (
        (
            f"{TO_BLACKHOLE.replace('default', '198.51.100.0/24')};"
            " iptables-nft -t raw -A OUTPUT -p tcp --dport 80 -j MARK --set-mark 5;"
            " iptables-nft -t nat -I OUTPUT -p tcp --dport 80 -j DNAT --to-destination 198.51.100.7"
        ),
        "dropped",
    ),
    "the source is mapped at input": (
        "iptables-nft -t nat -A INPUT -p tcp --dport 15001 -j SNAT --to-source 192.0.2.1",
        "proxy",
    ),
    "dropped by the port that the client's kernel chooses": (
        "iptables-nft -A OUTPUT -p tcp --sport 32768:60999 -j DROP",
        "dropped",
    ),
    "mapped by a chain of nft's own in a table called nat": (
        (
            "nft add table ip nat; nft 'add chain ip nat output {{ type nat hook output priority -101; }}';"
            " nft add rule ip nat output tcp dport 80 dnat to 198.51.100.7"
        ),
        "app",
    ),
    "dropped by a chain of nft's own in a table called mangle": (
        (
            "nft add table ip mangle; nft 'add chain ip mangle early {{ type filter hook output priority -200; }}';"
            " nft add rule ip mangle early tcp dport 80 drop"
        ),
        "dropped",
    ),
    "dropped in a table whose name begins like one of ours": (
        (
            "nft add table inet istio-proxy-nat2;"
            " nft 'add chain inet istio-proxy-nat2 out {{ type filter hook output priority -200; }}';"
            " nft add rule inet istio-proxy-nat2 out tcp dport 80 drop"
        ),
        "dropped",
    ),
    "what nat has mapped, native": (NFT % ("input priority 0", "ct status dnat tcp dport != 8080 drop"), "dropped"),
    "what nat has not mapped, native": (
        NFT % ("output priority 0", "ct status & dnat == 0 tcp dport 15001 meta skuid 1000 drop"),
        "proxy",
    ),
    "what nat has mapped": ("iptables -A INPUT -m conntrack --ctstate DNAT -p tcp --dport 15001 -j DROP", "dropped"),
    "before nat maps it": (
        "iptables -t mangle -A OUTPUT -m conntrack --ctstate DNAT -m state --state NEW -j DROP",
        "proxy",
    ),
    "of the first direction": (
        NFT % ("input priority 0", "ct direction original iif lo tcp dport 15001 drop"),
        "dropped",
    ),
    "of the other direction": (
        "iptables-legacy -A OUTPUT -p tcp --dport 15001 -m conntrack --ctdir REPLY -j DROP",
        "proxy",
    ),
    "a client with a way back": (
        NFT % ("prerouting priority -190", "fib saddr . mark . iif oif missing drop"),
        "proxy",
    ),
    "a client with a way back, by any mark": (
        NFT % ("prerouting priority -190", "iif eth0 fib saddr . iif oif != 0 tcp dport 8080 drop"),
        "proxy",
    ),
    "masqueraded": ("iptables-nft -t nat -A POSTROUTING -o eth0 -j MASQUERADE", "proxy"),
}
CASES |= {
    "the app's port": ("iptables-nft -A INPUT -p tcp --dport 8080 -j DROP", "proxy"),
    "the app's port over lo, native": (NFT % ("input priority 0", "iif lo tcp dport 8080 reject"), "proxy"),
    "the app's port, as it leaves": (
        "iptables-nft -A OUTPUT -o lo -p tcp -m owner --uid-owner 1337 --dport 8080 -j REJECT",
        "proxy",
    ),
    "the address from which the proxy calls": ("iptables-legacy -A INPUT -s 127.0.0.6 -j DROP", "proxy"),
    "the address that the app answers": ("iptables-nft -A INPUT -d 127.0.0.6 -j DROP", "proxy"),
    "a policy with the redirected ports alone": (
        (
            "iptables-nft -P INPUT DROP; iptables-nft -A INPUT -p tcp -m multiport --dports 15001,15006 -j ACCEPT;"
            " iptables-nft -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT"
        ),
        "proxy",
    ),
    "a policy with these, and lo": (
        (
            "iptables-nft -P INPUT DROP; iptables-nft -A INPUT -p tcp -m multiport --dports 15001,15006 -j ACCEPT;"
            " iptables-nft -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; iptables-nft -A INPUT -i lo -j ACCEPT"
        ),
        "proxy",
    ),
}
OUTCOMES = {"proxy": "proxy-outbound", "app": "direct", "dropped": "dropped"}


@pytest.fixture
def served(pod_pair: PodPair) -> PodPair:
    pod, peer = pod_pair
    peer.own_every_address()
    one_proxy(pod)
    pod.listener(("0.0.0.0", 8080), ("0.0.0.0", 80), label="app", uid=1000)
    peer.listener(("198.51.100.7", 80), label="app")
    return pod_pair


def causes_of_inbound(pair: PodPair, port: int) -> list[str]:
    """Return the kinds of causes of a connection that comes in to the app."""
    to, by = parse_address(pair.pod.ipv4), parse_address(pair.peer.ipv4)
    packet = Packet("tcp", to, port, source=by, in_interface="eth0")
    return [each.kind for each in why(packet).causes]


NEXT_TO_OURS = ("-t nat", "-t mangle", "-t raw", "type nat")
"""In the commands of rules for which it matters where ours are: others are filters, at another hook or priority."""


@pytest.mark.parametrize(
    ("name", "driver"),
    [
        *((name, "iptables-netlink") for name in CASES),
        *((name, "nftables-netlink") for name in CASES if any(word in CASES[name][0] for word in NEXT_TO_OURS)),
    ],
)
def test_why_judges_a_filter_as_the_kernel_does(served: PodPair, name: str, driver: str) -> None:
    """Outbound, inbound, and from the proxy on to the app; `verify` holds where nothing of it is wrong."""
    commands, expected = CASES[name]
    pod, peer = served
    with pod.entered():
        operations.apply(settings(DRIVERS[driver]))
        pod.run(["sh", "-ec", commands.format(pod=pod.ipv4)])

    with pod.entered(), pod_read_once():
        traced = operations.trace_packet(ELSEWHERE, 80)
        assert traced.outcome == OUTCOMES[expected]
        assert traced.is_certain or not name.startswith("later fragments")
        inbound = {port: causes_of_inbound(served, port) for port in (80, 8080)}
        verified = operations.verify()
        assert verified.holds == (expected == "proxy" and not any(inbound.values())), inbound
        may_be = "REPLY" in commands  # a later packet
        assert verified.is_certain or not verified.holds or may_be, str(verified)
        if "iptables" in driver:
            assert_the_connections_agree(served, outside=ELSEWHERE, of_pod=(verified, why()))
    timeout = 0.1 if expected == "dropped" else 5
    assert (pod.client(1000).connect(ELSEWHERE, 80, timeout=timeout).label or "dropped") == expected
    for port, causes in inbound.items():
        timeout = 0.1 if causes else 5
        comes_in = peer.client().connect(pod.ipv4, port, timeout=timeout).label
        sent_on = pod.client(1337).connect(pod.ipv4, port, source="127.0.0.6", timeout=timeout).answer
        is_at_app = sent_on is not None and (sent_on.label, sent_on.local) == ("app", Endpoint(pod.ipv4, port))
        assert (comes_in == "proxy" and is_at_app) == (not causes), (port, comes_in, sent_on)


OUTBOUND = Packet("tcp", parse_address(ELSEWHERE), 80, uid=1000, gid=1000)
TRANSPARENT: dict[str, tuple[str, str, str, str]] = {
    "the app's port over lo": (
        NFT % ("input priority 0", "iif lo tcp dport 8080 drop"),
        "filtered",
        "in",
        "what the proxy sends on",
    ),
    "clients' addresses over lo": (
        "iptables -A INPUT -i lo ! -s 127.0.0.1 ! -d 127.0.0.1 -j DROP",
        "filtered",
        "in out",
        "",
    ),
    "the mark of calls to the app is gone": (
        NFT.replace("filter", "route") % ("output priority -149", "meta mark set 0"),
        "foreign-rule",
        "in",
        "changes a mark",
    ),
    "calls to the app are marked as calls of the pod": (
        NFT % ("prerouting priority -310", "iif lo meta mark set 0x53a"),
        "foreign-rule",
        "in",
        "changes a mark",
    ),
    "the capture's own mark": (
        NFT % ("prerouting priority -310", "iif eth0 meta mark set 0x539"),
        "foreign-rule",
        "in out",
        "changes a mark",
    ),
    "the proxy's user": (NFT % ("output priority 0", "meta skuid 0 oif != lo drop"), "filtered", "in out", ""),
    "the user that is no proxy": (NFT % ("output priority 0", "meta skuid 1337 drop"), "", "", ""),
    "an address from which it does not call": (
        NFT % ("input priority 0", "iif lo ip saddr 127.0.0.6 drop"),
        "",
        "",
        "",
    ),
    "another mark behind": (
        NFT % ("prerouting priority -140", "iif eth0 tcp dport 8080 meta mark set 0x10"),
        "",
        "",
        "",
    ),
    "the proxy's port": (NFT % ("input priority 0", "tcp dport 15006 drop"), "", "", ""),
    "a policy for one port": (
        (
            "iptables -P INPUT DROP; iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT;"
            " iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -p tcp --dport 8080 -j ACCEPT"
        ),
        "filtered",
        "",
        "captured traffic (tcp, port other than 22, 8080, 15001, 15006, 15020-15021, 15090), and the chain's policy",
    ),
}
"""What breaks a transparent capture: the cause of the pod, what it breaks, and a part of the cause's words."""


@pytest.mark.usefixtures("in_group_of_proxy")
@pytest.mark.parametrize("name", TRANSPARENT)
def test_why_judges_a_transparent_capture_as_the_kernel_does(pod_pair: PodPair, name: str) -> None:
    """The proxy, root with its group, calls the app from the client's address, with the mark of the capture."""
    commands, kind, broken, words = TRANSPARENT[name]
    driver = ("nftables-netlink", "iptables-netlink")[list(TRANSPARENT).index(name) % 2]
    pod, peer = pod_pair
    peer.own_every_address()
    peer.listener(("0.0.0.0", 80), label="world")
    inbound, outbound = ([(each, port) for each in ("0.0.0.0", "::")] for port in (15006, 15001))
    pod.listener(*inbound, label="proxy", uid=UID, gid=GID, transparent=True)
    pod.listener(*outbound, label="proxy", uid=UID, gid=GID)
    pod.listener(("0.0.0.0", 8080), label="app", uid=1000)
    with pod.entered():
        operations.apply(settings({INTERCEPTION_MODE: "TPROXY", IP_FAMILIES: "ipv4"}, DRIVERS[driver]))
        pod.run(["sh", "-ec", commands.format(pod=pod.ipv4)])
        with pod_read_once():
            of_pod = why()
            found = {"in": causes_of_inbound(pod_pair, 8080), "out": [each.kind for each in why(OUTBOUND).causes]}
        verified = operations.verify()

    assert found == {goes: [kind] * (goes in broken.split()) for goes in found}
    assert [each.kind for each in of_pod.causes] == [kind] * bool(kind), of_pod.causes
    assert all(words in each.message for each in of_pod.causes), of_pod.causes
    assert verified.holds is not bool(kind), str(verified)
    assert_the_connections_agree(pod_pair, outside=ELSEWHERE, of_pod=(verified, of_pod))
    proxy, timeout = pod.client(uid=UID, gid=GID), 0.2 if broken else 5
    came = peer.client().connect(pod.ipv4, 8080, timeout=timeout).label
    passed = proxy.connect(pod.ipv4, 8080, source=peer.ipv4, mark=MARK, timeout=timeout).label
    assert ((came, passed) == ("proxy", "app")) is ("in" not in broken), (came, passed)
    went = pod.client(1000).connect(ELSEWHERE, 80, timeout=timeout).label
    passed = proxy.connect(ELSEWHERE, 80, timeout=timeout).label
    assert ((went, passed) == ("proxy", "world")) is ("out" not in broken), (went, passed)


def test_another_device_by_a_mark_is_named(pod_pair: PodPair) -> None:
    """The app's connections are captured as before; those of the proxy leave by a device that leads nowhere."""
    pod, peer = pod_pair
    peer.own_every_address()
    peer.listener(("0.0.0.0", 80), label="world")
    one_proxy(pod)
    run_program(pod, "capture", "apply")
    assert pod.client(1337).connect(ELSEWHERE, 80, timeout=0.5).label == "world"

    other_device = CASES["marked for another device"][0].replace("1000", "1337")
    pod.run(["sh", "-ec", other_device])

    words = "`32765: from all fwmark 0x5 lookup 7`"
    traced = run_program(pod, "capture", "trace", "tcp", f"{ELSEWHERE}:80", "--uid", "1337").stdout
    verified = run_program(pod, "capture", "verify", code=None)
    assert f"the policy rule {words} lets it leave via net1" in traced
    assert (verified.returncode, f"by which the policy rule {words} routes" in verified.stdout) == (4, True)
    assert "direct -> direct, out via net1" in verified.stdout
    assert pod.client(1337).connect(ELSEWHERE, 80, timeout=0.5).label == ""
    assert pod.client(1000).connect(ELSEWHERE, 80, timeout=0.5).label == "proxy"

    pod.run(
        ["sh", "-ec", "ip route replace blackhole default table 7; iptables -t mangle -I OUTPUT -j MARK --set-mark 5"]
    )
    (cause,) = json.loads(
        run_program(pod, "capture", "why", "tcp", f"{ELSEWHERE}:80", "--format", "json", code=None).stdout
    )["causes"]
    assert cause["kind"] == "rerouted"
    assert f"{words} refuses it: -j MARK --set-xmark 0x5/0xffffffff" in cause["says"]


def test_the_remedy_of_a_filter_works(served: PodPair) -> None:
    """A policy drops all but answers; what `why` says to accept is accepted, and nothing else."""
    pod, peer = served
    run_program(pod, "capture", "apply", "--ip-families", "ipv4")
    pod.run(["sh", "-ec", "iptables -P INPUT DROP; iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT"])
    ways: tuple[list[str], ...] = ([], ["tcp", f"{ELSEWHERE}:80"], ["tcp", f"{pod.ipv4}:8080", "--in", "eth0"])

    (broken,) = json.loads(run_program(pod, "capture", "why", "--format", "json", code=None).stdout)["causes"]
    assert broken["kind"] == "filtered"
    remedy = broken["remedy"].partition("not the port")[0]
    accepted = [f"-p tcp --dport {port} -j ACCEPT" for port in re.findall(r"\d+", remedy)]
    accepted += re.findall(r"`(-i .+?)`", broken["remedy"])
    assert len(accepted) == 3
    pod.run(["sh", "-ec", "; ".join(f"iptables -A INPUT {rule}" for rule in accepted)])

    assert [run_program(pod, "capture", "why", *way).returncode for way in ways] == [0, 0, 0]
    assert run_program(pod, "capture", "verify").returncode == 0
    assert pod.client(1000).connect(ELSEWHERE, 80, timeout=5).label == "proxy"
    assert peer.client().connect(pod.ipv4, 8080, timeout=5).label == "proxy"
    assert pod.client(1337).connect(pod.ipv4, 8080, source="127.0.0.6", timeout=5).label == "app"


STATELESS = (
    "iptables -P INPUT DROP; iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -p tcp --dport {port} -j ACCEPT"
)


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_answers_to_what_the_proxy_sends_on_are_judged(pod_pair: PodPair, mode: str) -> None:
    pod, peer = pod_pair
    uid = 1337 if mode == "REDIRECT" else 0
    peer.own_every_address()
    peer.listener(("0.0.0.0", 80), label="world")
    ends = [(each, port) for each in ("0.0.0.0", "::") for port in (15001, 15006)]
    pod.listener(*ends, label="proxy", uid=uid, transparent=mode == "TPROXY")
    run_program(pod, "capture", "apply", "--ip-families", "ipv4", "-m", mode, "-g", "0")
    with pod.entered():
        assert why(OUTBOUND).causes == ()
    assert pod.client(uid=uid).connect(ELSEWHERE, 80).label == "world"

    pod.run(["sh", "-ec", STATELESS.format(port=15006 if mode == "REDIRECT" else "1:1024")])

    assert pod.client(uid=1000).connect(ELSEWHERE, 80).label == "proxy"
    assert pod.client(uid=uid).connect(ELSEWHERE, 80, timeout=0.2).label == ""
    with pod.entered():
        (cause,) = why(OUTBOUND).causes
        of_pod, verified = why().causes, operations.verify()
    assert "no rule accepts answers to what the proxy sends on" in cause.message
    assert [each.kind for each in of_pod] == ["filtered"]
    assert not verified.holds
    (accept,) = re.findall(r"`(-m .+?)`", cause.remedy)
    pod.run(["iptables", "-I", "INPUT", *accept.split()])
    assert pod.client(uid=uid).connect(ELSEWHERE, 80).label == "world"
    with pod.entered():
        assert why(OUTBOUND).causes == ()


HANGS = "the connection hangs"
TO_INBOUND = f"its answers go to port 15006: {HANGS}"
TO_OUTBOUND = f"its answers go to port 15001: {HANGS}"
REJECT = ("--ip-families", "ipv4", "--other-family", "reject")
HANGING = {
    "not tracked": ((), "iptables -t raw -A OUTPUT -p tcp --dport 80 -j NOTRACK", "out", TO_INBOUND),
    "not tracked, inbound": ((), "iptables -t raw -A PREROUTING -p tcp --dport 8080 -j NOTRACK", "in", TO_OUTBOUND),
    "not tracked, and unknown answers are dropped": (
        (),
        (
            "nft add table ip x; nft 'add chain ip x c { type filter hook output priority -300; }';"
            " nft add rule ip x c tcp dport 80 notrack; iptables -A INPUT -m conntrack ! --ctstate ESTABLISHED -j DROP"
        ),
        "out",
        f"its answers are dropped by ip filter INPUT, hook INPUT, priority 0, rule 1: {HANGS}",
    ),
    "left out, and answers are dropped": (
        ("-o", "80"),
        "iptables -A INPUT -p tcp -m tcp --sport 80 --tcp-flags SYN SYN -j DROP",
        "out",
        f"its answers are dropped by ip filter INPUT, hook INPUT, priority 0, rule 1: {HANGS}",
    ),
    "rejected, but for its first packet": (
        REJECT,
        "nft insert rule inet istio-proxy-reject output accept",
        "out6",
        f"its answers are dropped by inet istio-proxy-reject input, hook INPUT, priority -200, rule 1: {HANGS}",
    ),
    "rejected, but for its first packet, inbound": (
        REJECT,
        "nft insert rule inet istio-proxy-reject input accept",
        "in6",
        f"its answers are dropped by inet istio-proxy-reject output, hook OUTPUT, priority -200, rule 1: {HANGS}",
    ),
}


@pytest.mark.parametrize("name", HANGING)
def test_a_direct_connection_whose_answers_are_lost_hangs(served: PodPair, name: str) -> None:
    """It goes past the proxy, and no answer comes back: trace, why and, of captured traffic, verify have the reason."""
    options, commands, goes, words = HANGING[name]
    pod, peer = served
    peer.listener(("::", 80), label="world")
    pod.listener(("::", 8080), label="app", uid=1000)
    run_program(pod, "capture", "apply", *options)
    pod.run(["sh", "-ec", commands])
    address, port, client = {
        "out": ("198.51.100.7", 80, pod.client(1000)),
        "out6": ("2001:db8::9", 80, pod.client(1000)),
        "in": (pod.ipv4, 8080, peer.client()),
        "in6": (pod.ipv6, 8080, peer.client()),
    }[goes]
    source = peer.ipv6 if ":" in address else peer.ipv4
    end = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    way = ["tcp", end, *(["--in", "eth0", "--src", source] if client.namespace is not pod else [])]

    assert f"direct: it bypasses the proxy\nbut {words}\n" in run_program(pod, "capture", "trace", *way).stdout
    found = json.loads(run_program(pod, "capture", "why", *way, "--format", "json", code=None).stdout)
    assert found["verdict"] == "broken"
    (cause,) = found["causes"]
    if cause["kind"] == "foreign-rule":
        assert words in cause["says"]
        verified = run_program(pod, "capture", "verify", code=None).stdout
        assert f"keeps captured traffic out of connection tracking, and {words}: " in verified
        assert " -> direct, and hangs; witness: " in verified
    else:
        is_rejected = options == REJECT
        assert cause["kind"] == ("family-not-captured" if is_rejected else "filtered")
        explained = run_program(pod, "capture", "explain").stdout
        assert ("it may drop answers to what it lets pass" in " ".join(explained.split())) is is_rejected
    assert client.connect(address, port, timeout=0.5).label == ""


LOCAL_TRAFFIC = {
    "docker": "iptables-nft -t nat -N D;"
    " iptables-nft -t nat -I OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j D;"
    " iptables-nft -t nat -A D -p tcp --dport 80 -j DNAT --to-destination {pod}:8080",
    "kube-proxy": "nft 'table ip k {{ chain c {{ type nat hook output priority -110;"
    " fib daddr type local tcp dport 80 dnat to {pod}:8080; }}; }}'",
}


@pytest.mark.parametrize("writer", LOCAL_TRAFFIC)
def test_ports_of_a_node_are_judged(served: PodPair, writer: str) -> None:
    """Rules of Docker and kube-proxy for published ports take traffic to the pod's own addresses alone."""
    pod = served.pod
    with pod.entered():
        operations.apply(settings())
        pod.run(["sh", "-ec", LOCAL_TRAFFIC[writer].format(pod=pod.ipv4)])

        for address, expected in ((ELSEWHERE, "proxy"), (pod.ipv4, "app")):
            traced = operations.trace_packet(address, 80)
            assert (traced.outcome, traced.is_certain) == (OUTCOMES[expected], True)
            assert pod.client(1000).connect(address, 80, timeout=5).label == expected
        verified = operations.verify()
    assert not verified.holds  # the proxy's own calls to its pod, which are captured
    assert verified.is_certain, str(verified)

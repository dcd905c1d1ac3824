"""Broken pods and healthy ones: ``why`` names the cause of each broken one and no other, none of the healthy ones.

Traffic agrees: what has a cause does not reach the proxy. The last situations are from reports of users.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from capture import operations
from capture.operations import connection, diagnosis
from capture.report.target import with_target
from capture.settings import options as option
from capture.state import record
from pytest_netns import NamespaceFactory, PodPair
from support.captures.agreeing import assert_the_connections_agree
from support.captures.diagnosed import (
    APP_PORT,
    BEFORE,
    DNS,
    ELSEWHERE,
    NATIVE,
    TO_RUN,
    BrokenPod,
    assert_the_verbs_agree,
    given,
    packet,
    reached,
    why,
)
from support.captures.fake_pod import FakePod
from support.captures.meshes import FIFTY
from support.captures.settings import DRIVERS, ONE_FOR_EACH_PLACE, settings
from support.processes.waiting import wait_until

if TYPE_CHECKING:
    from typing import Any

    from capture.operations.diagnosis import Diagnosis
    from capture.settings.options import Option
    from capture.state.record import Record

CAPTURE = Path(sys.executable).with_name("capture")
TPROXY = "-m TPROXY"
SECOND_SET = (
    "iptables-nft -t nat -N ISTIO_OUTPUT; iptables-nft -t nat -A ISTIO_OUTPUT -p tcp -j REDIRECT --to-ports 16001;"
    " iptables-nft -t nat -A OUTPUT -p tcp -j ISTIO_OUTPUT"
)
TO_OTHER = "DNAT --to-destination 203.0.113.77:80"
BROKEN: dict[str, BrokenPod] = {
    "no rules": BrokenPod("no-rules", "none"),
    "a chain is empty": BrokenPod(
        "rule-missing", breaks=f"{NATIVE % 'flush chain'} ISTIO-OUTPUT", message="is missing: -j ISTIO-REDIRECT\n"
    ),
    "the jump is gone": BrokenPod(
        "rule-missing", breaks=f"{NATIVE % 'flush chain'} output", message="is missing: -p tcp -j ISTIO-OUTPUT\nRun"
    ),
    "the proxy is no exception any more": BrokenPod(
        "rule-missing",
        breaks="for i in uid gid; do iptables -t nat -D ISTIO-OUTPUT -m owner --$i-owner 1337 -j RETURN; done",
        backend="iptables",
        has_traffic=False,
        is_of_pod=True,
        message="comes back to it for ever: `-m owner --uid-owner 1337 -j RETURN` is missing",
    ),
    "a rule too many": BrokenPod(
        "rule-unexpected",
        breaks="iptables -t nat -I ISTIO-OUTPUT -p tcp --dport 80 -j RETURN",
        backend="iptables",
        is_of_pod=True,
        message="a rule that was not applied decides on the connection: -p tcp",
    ),
    "our redirect has another port": BrokenPod(
        "rule-unexpected",
        breaks="iptables -t nat -R ISTIO-REDIRECT 1 -p tcp -j REDIRECT --to-ports 9999",
        backend="iptables",
        message="--to-ports 9999",
    ),
    "a jump into our chain": BrokenPod(
        "rule-unexpected",
        breaks="iptables -t nat -I OUTPUT -p tcp --dport 80 -j ISTIO-REDIRECT",
        backend="iptables",
        has_traffic=False,
        is_of_pod=True,
        message="--dport 80 -j ISTIO-REDIRECT` was not applied",
    ),
    "accepted before": BrokenPod("foreign-rule", breaks=f"{NATIVE % 'insert rule'} output tcp dport 80 accept"),
    "accepted and logged": BrokenPod("foreign-rule", breaks=f"{NATIVE % 'insert rule'} output tcp dport 80 log accept"),
    "returned before": BrokenPod(
        "foreign-rule", breaks="iptables -t nat -I OUTPUT -p tcp -j RETURN", backend="iptables"
    ),
    "another transparent proxy is first": BrokenPod(
        "foreign-rule",
        breaks=f"iptables -t mangle -A PREROUTING -p tcp --dport {APP_PORT} -j TPROXY --on-port 9000 --tproxy-mark 1",
        goes="in",
        is_of_pod=True,
        message="hands the connection to what listens on port 9000, by TPROXY",
    ),
    "another transparent proxy has our port": BrokenPod(
        "foreign-rule",
        breaks=f"iptables-legacy -t mangle -A PREROUTING -p tcp --dport {APP_PORT} -j TPROXY --on-port 15006"
        " --tproxy-mark 1",
        goes="in",
        is_of_pod=True,
        message="hands the connection to what listens on port 15006, by TPROXY",
    ),
    "another transparent proxy in our table": BrokenPod(
        "foreign-rule",
        TPROXY,
        f"iptables -t mangle -I PREROUTING -p tcp --dport {APP_PORT} -j TPROXY --on-port 9000 --tproxy-mark 1",
        goes="in",
        backend="iptables",
        transparent=True,
        proxy_uid=0,
        is_of_pod=True,
    ),
    "accepted behind": BrokenPod(
        "proxy-user", breaks="iptables -t nat -A OUTPUT -p tcp -j ACCEPT", uid=1337, gid=1337, backend="iptables"
    ),
    "accepted behind what is left out": BrokenPod(
        "excluded", f"-x {ELSEWHERE}/32", "iptables -t nat -A OUTPUT -p tcp -j ACCEPT", backend="iptables"
    ),
    "translated behind": BrokenPod(
        "nat-first",
        breaks=f"iptables -t nat -A OUTPUT -p tcp -j {TO_OTHER}",
        uid=1337,
        gid=1337,
        backend="iptables",
        behind="proxy-user",
    ),
    "redirected before": BrokenPod("nat-first", breaks=BEFORE % ("nat", -110, "redirect to :9999")),
    "the proxy is redirected": BrokenPod(
        "foreign-rule",
        breaks=BEFORE % ("nat", -110, "redirect to :15001"),
        has_traffic=False,
        message=":15001\nRestrict the rule to other users than 1337",
    ),
    "translated before": BrokenPod("nat-first", breaks=BEFORE % ("nat", -110, "dnat to 203.0.113.77")),
    "translated in our table": BrokenPod(
        "nat-first", breaks=f"iptables -t nat -I OUTPUT -p tcp -j {TO_OTHER}", backend="iptables"
    ),
    "a second set": BrokenPod("second-set", breaks=SECOND_SET, has_traffic=False),
    "a second set whose order is unknown": BrokenPod(
        "second-set",
        breaks=SECOND_SET.replace("iptables-nft", "iptables-legacy"),
        has_traffic=False,
        is_of_pod=True,
        message="a second set of capture rules is in iptables-legacy",
    ),
    "a second set that sends the proxy's connections back": BrokenPod(
        "second-set",
        breaks=SECOND_SET.replace("iptables-nft", "iptables-legacy").replace("ISTIO_OUTPUT", "ISTIO_REDIRECT"),
        has_traffic=False,
        is_of_pod=True,
    ),
    "the proxy's call is rejected": BrokenPod(
        "filtered",
        breaks="iptables -A OUTPUT -p tcp --dport 80 -j REJECT",
        has_traffic=False,
        is_of_pod=True,
        message="a foreign rule rejects what the proxy sends on",
    ),
    "dropped before": BrokenPod("filtered", breaks=BEFORE % ("filter", -200, "drop")),
    "dropped at input": BrokenPod("filtered", breaks="iptables -A INPUT -p tcp --dport 15001 -j DROP"),
    "dropped behind a foreign redirect": BrokenPod(
        "filtered",
        breaks=f"{BEFORE % ('nat', -110, 'redirect to :15001')}; iptables -A INPUT -p tcp --dport 15001 -j DROP",
        message="what goes to port 15001",
        behind="foreign-rule",
    ),
    "dropped by legacy iptables": BrokenPod("filtered", breaks="iptables-legacy -A INPUT -p tcp --dport 15001 -j DROP"),
    "dropped by the table security": BrokenPod(
        "filtered", breaks="iptables-legacy -t security -A INPUT -p tcp --dport 15001 -j DROP"
    ),
    "rejected at output": BrokenPod("filtered", breaks="iptables -A OUTPUT -p tcp --dport 15001 -j REJECT"),
    "an inbound filter": BrokenPod("filtered", breaks="iptables -A INPUT -p tcp --dport 15006 -j DROP", goes="in"),
    "answers of a transparent proxy are dropped": BrokenPod(
        "filtered",
        TPROXY,
        f"iptables -A OUTPUT -p tcp --sport {APP_PORT} -j DROP",
        goes="in",
        transparent=True,
        proxy_uid=0,
    ),
    "lo is down": BrokenPod("lo-down", breaks="ip link set lo down", is_of_pod=True),
    "lo is down, inbound": BrokenPod(
        "lo-down",
        breaks="ip link set lo down",
        goes="in",
        is_of_pod=True,
        has_traffic=False,  # the listener of this test does not call the app, as a proxy would
    ),
    "eth0 has no address": BrokenPod("no-route", breaks="ip address flush dev eth0", is_of_pod=True),
    "a policy drops what is redirected": BrokenPod(
        "filtered",
        breaks="iptables -P INPUT DROP",
        is_of_pod=True,
        message="what goes to port 15001, and the chain's policy",
    ),
    "a chain that INPUT calls drops": BrokenPod(
        "filtered",
        breaks="iptables -N x; iptables -I INPUT -j x; iptables -A x -p udp -j ACCEPT; iptables -A x -j DROP",
        goes="in",
        is_of_pod=True,
        message="what goes to port 15006",
        where="ip filter x, rule 2",
    ),
    "a policy rule by source": BrokenPod(
        "no-route", breaks="ip rule add from 10.77.0.0/16 unreachable", is_of_pod=True
    ),
    "a policy rule for the proxy's inbound port": BrokenPod(
        "no-route",
        breaks="ip rule add pref 0 ipproto tcp dport 15006 prohibit; ip rule del pref 0 lookup local;"
        " ip rule add pref 1 lookup local",
        goes="in",
        is_of_pod=True,
    ),
    "IPsec drops everything": BrokenPod(
        "ipsec", breaks="ip xfrm policy add dir out src 0.0.0.0/0 dst 0.0.0.0/0 action block", is_of_pod=True
    ),
    "eth0 is down": BrokenPod("interface-down", breaks="ip link set eth0 down", is_of_pod=True),
    "eth0 is a port of a bridge": BrokenPod(
        "interface-down",
        breaks="ip link add br0 type bridge; ip link set br0 up; ip link set eth0 master br0",
        goes="in",
        message="the interface eth0 has the pod's addresses and is a port of a bridge: nothing comes in for them",
    ),
    "eth0 is down, inbound": BrokenPod("interface-down", breaks="ip link set eth0 down", goes="in", is_of_pod=True),
    "a network is left out": BrokenPod("excluded", f"-x {ELSEWHERE}/32"),
    "a port is left out": BrokenPod("excluded", "-o 80", backend="iptables"),
    "only others are captured": BrokenPod("excluded", "-i 10.0.0.0/8"),
    "every client is left out": BrokenPod("excluded", "--exclude-inbound-cidrs 0.0.0.0/0", goes="in"),
    "an inbound port is left out": BrokenPod("excluded", f"-d {APP_PORT}", goes="in"),
    "everything is left out": BrokenPod("excluded", "-b '' -i ''", is_of_pod=True),
    "every interface is left out": BrokenPod("excluded", "-c eth+", goes="in", is_of_pod=True, proxy_uid=None),
    "every port, and nothing inbound": BrokenPod("excluded", "-b '' -o 1-65535", is_of_pod=True),
    "every network, and nothing inbound": BrokenPod("excluded", "-b '' -x 0.0.0.0/0,::/0", is_of_pod=True),
    "every port, both ways": BrokenPod("excluded", "-d 1-65535 -o 1-65535", is_of_pod=True),
    "no group, and nothing inbound": BrokenPod("excluded", "-b '' ISTIO_OUTBOUND_OWNER_GROUPS ''", is_of_pod=True),
    "an interface that is not there": BrokenPod("excluded", "-k net1 -b '' -i ''", is_of_pod=True),
    "the proxy's user": BrokenPod("proxy-user", uid=1337, gid=1337),
    "DNS": BrokenPod("dns-not-captured", goes="dns", ports=(15001, 15006, 15053), message="DNS is not captured"),
    "another name server": BrokenPod(
        "dns-not-captured",
        "--redirect-dns",
        goes="dns",
        ports=(15001, 15006, 15053),
        message=f"{ELSEWHERE} is none of them\nTo capture look-ups at other servers, run `capture apply --r",
    ),
    "the rules of DNS are gone": BrokenPod(
        "rule-missing",
        DNS,
        "iptables -t nat -F ISTIO-OUTPUT",
        goes="dns",
        backend="iptables",
        ports=(15001, 15006, 15053),
        has_traffic=False,
    ),
    "the proxy looks a name up": BrokenPod("proxy-user", DNS, goes="dns", uid=1337, gid=1337),
    "UDP": BrokenPod("not-tcp", goes="udp"),
    "IPv6": BrokenPod("family-not-captured", "--ip-families ipv4", goes="out6"),
    "IPv6 is rejected": BrokenPod(
        "family-not-captured", "--ip-families ipv4 --other-family reject", goes="out6", message="refuses its TCP"
    ),
    "no process listens": BrokenPod("not-listening", proxy_uid=None),
    "no process listens for DNS": BrokenPod("not-listening", DNS, goes="dns"),
    "port 53 is left out": BrokenPod("excluded", f"{DNS} -o 53", goes="dns"),
    "answers of DNS are dropped": BrokenPod(
        "filtered",
        DNS,
        "iptables -A INPUT -p udp --sport 53 -j DROP",
        goes="dns",
        is_of_pod=True,
        ports=(15001, 15006, 15053),
    ),
    "look-ups are in a foreign zone": BrokenPod(
        "foreign-rule",
        DNS,
        "nft 'table ip x { chain d { udp dport 53 ct zone set 7; };"
        " chain c { type filter hook output priority -310; jump d; }; }'",
        goes="dns",
        is_of_pod=True,
        ports=(15001, 15006, 15053),
        message="so that no answer arrives, because of a foreign rule: meta l4proto udp udp dport 53 ct zone set 7",
    ),
    "look-ups are in a foreign zone by a rule of iptables": BrokenPod(
        "foreign-rule",
        DNS,
        "iptables -t raw -I OUTPUT -p udp --dport 53 -j CT --zone 7",
        goes="dns",
        backend="iptables",
        is_of_pod=True,
        ports=(15001, 15006, 15053),
    ),
    "IPv4 alone listens": BrokenPod("not-listening", addresses=("0.0.0.0",), goes="out6"),
    "the proxy is another user": BrokenPod("proxy-wrong-user", proxy_uid=2000, has_traffic=False),
    "the proxy is for REDIRECT": BrokenPod("proxy-mode", TPROXY, goes="in"),
    "the policy rule is gone": BrokenPod(
        "route-missing", TPROXY, "ip rule del fwmark 1337", goes="in", transparent=True, proxy_uid=0, has_traffic=False
    ),
    "the route is gone": BrokenPod(
        "route-missing", TPROXY, "ip route flush table 133", goes="in", transparent=True, proxy_uid=0, has_traffic=False
    ),
    "another route is in its place": BrokenPod(
        "route-missing",
        TPROXY,
        "ip route replace prohibit default table 133",
        goes="in",
        transparent=True,
        proxy_uid=0,
        has_traffic=False,
        message="; another default route is in its place",
    ),
    "the proxy is the user whose calls TPROXY captures": BrokenPod(
        "proxy-wrong-user",
        TPROXY,
        goes="in",
        transparent=True,
        has_traffic=False,  # the listener of this test does not call the app, as a proxy would
        is_of_pod=True,
        message="runs as user 1337, whose calls to the app are captured under TPROXY: connections fail",
    ),
    "a proxy that is not root has no listener of TPROXY": BrokenPod(
        "not-listening", TPROXY, goes="in", ports=(15001,), is_of_pod=True, message="the proxy is not root, as TPROXY"
    ),
    "no route": BrokenPod("no-route", breaks="ip route del default", is_of_pod=True),
    "eth0 has lost its address": BrokenPod(
        "no-route",
        breaks="ip address add 10.77.0.2/32 dev lo; ip address del 10.77.0.2/24 dev eth0; ip route add {peer} dev eth0;"
        " ip route add default via {peer}",
        goes="in",
        message="the interface eth0 has no IPv4 address",
    ),
    "a policy rule for what comes in, before table local": BrokenPod(
        "no-route",
        breaks="ip rule del pref 0; ip rule add pref 5 lookup local; ip rule add pref 0 iif eth0 lookup main",
        goes="in",
        is_of_pod=True,
        message="drops what comes in via eth0 from {peer}",
    ),
    "rp_filter": BrokenPod(
        "no-route",
        breaks="sysctl -wq net.ipv4.conf.all.rp_filter=1; ip link add net1 type veth peer name net2;"
        " ip link set net1 up; ip link set net2 up; ip route add {peer} dev net1",
        goes="in",
        message="by a policy rule, or by rp_filter",
    ),
    "rp_filter, TPROXY": BrokenPod(
        "no-route",
        TPROXY,
        "sysctl -wq net.ipv4.conf.all.rp_filter=1; ip link add net1 type veth peer name net2;"
        " ip link set net1 up; ip link set net2 up; ip route add {peer} dev net1",
        goes="in",
        transparent=True,
        proxy_uid=0,
        message="by a policy rule, or by rp_filter",
    ),
    "neighbour discovery is dropped": BrokenPod(
        "filtered",
        breaks="ip6tables -A INPUT -p icmpv6 -j DROP",
        goes="out6",
        is_of_pod=True,
        message="a foreign rule drops neighbour discovery (ICMPv6): -p ipv6-icmp",
        where="ip6 filter INPUT, hook INPUT, priority 0, rule 1",
        has_traffic=False,
    ),
    "neighbour discovery is dropped, and was tried": BrokenPod(
        "filtered",
        breaks="nft 'table ip6 x { chain c { type filter hook output priority 0; policy drop;"
        " meta l4proto != icmpv6 accept; }; }'; ip -6 neigh flush dev eth0; bash -c 'echo > /dev/udp/2001:db8::9/9'",
        goes="out6",
        has_traffic=False,  # as above
        is_of_pod=True,
        message="no rule accepts neighbour discovery (ICMPv6)",
    ),
    "neighbours' answers are dropped": BrokenPod(
        "filtered",
        breaks="ip6tables -A INPUT -p icmpv6 --icmpv6-type neighbour-advertisement -j DROP; ip -6 neigh flush dev eth0",
        goes="out6",
        has_traffic=False,  # as above
        is_of_pod=True,
        message="a foreign rule drops neighbour discovery (ICMPv6): -p ipv6-icmp -m icmp6 --icmpv6-type 136",
    ),
    "neighbours' questions are dropped by nft": BrokenPod(
        "filtered",
        breaks="nft 'table ip6 x { chain c { type filter hook input priority 0; icmpv6 type nd-neighbor-solicit drop;"
        " }; }'; ip -6 neigh flush dev eth0",
        goes="out6",
        has_traffic=False,  # as above
        is_of_pod=True,
        message="a foreign rule drops neighbour discovery (ICMPv6)",
    ),
    "what a process sends is dropped": BrokenPod(
        "filtered",
        breaks="iptables -A OUTPUT -p tcp --dport 15001 -m owner --socket-exists -j DROP",
        is_of_pod=True,
        message="a foreign rule drops what goes to port 15001: -p tcp -m tcp --dport 15001 -m owner --socket-exists",
    ),
    "the proxy's call to the app is dropped": BrokenPod(
        "filtered",
        breaks=f"iptables -A INPUT -i lo -p tcp --dport {APP_PORT} -j DROP",
        goes="in",
        message="drops what the proxy sends on",
        has_traffic=False,
    ),
    "the app's answers to the proxy are dropped": BrokenPod(
        "filtered",
        breaks=f"iptables -A OUTPUT -o lo -p tcp --sport {APP_PORT} -j DROP",
        goes="in",
        message="drops answers to what the proxy sends on",
        has_traffic=False,
    ),
    "the proxy's call to the app is captured": BrokenPod(
        "rule-missing",
        breaks="iptables -t nat -D ISTIO-OUTPUT 1; iptables -t nat -I ISTIO-OUTPUT 5 -p tcp --dport 443 -j RETURN",
        goes="in",
        backend="iptables",
        is_of_pod=True,
        has_traffic=False,
    ),
    "answers come to the proxy": BrokenPod(
        "rule-missing",
        TPROXY,
        "iptables -t mangle -F ISTIO-DIVERT",
        backend="iptables",
        transparent=True,
        proxy_uid=0,
        is_of_pod=True,
        message="answers are taken for inbound connections",
    ),
    "the mark of calls to the app is not kept": BrokenPod(
        "rule-missing",
        TPROXY,
        "iptables -t mangle -D PREROUTING -p tcp -m mark --mark 0x539 -j CONNMARK --save-mark",
        goes="in",
        backend="iptables",
        transparent=True,
        proxy_uid=0,
        is_of_pod=True,
        has_traffic=False,
        message="do not come back to the proxy: `-p tcp -m mark --mark 0x539 -j CONNMARK --save-mark",
    ),
    "answers of the app have no mark": BrokenPod(
        "rule-missing",
        TPROXY,
        "iptables -t mangle -D OUTPUT -p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark",
        goes="in",
        backend="iptables",
        transparent=True,
        proxy_uid=0,
        is_of_pod=True,
        has_traffic=False,  # the listener of this test does not call the app, as a proxy would
        message="do not come back to the proxy: `-p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark",
    ),
    "answers of the app leave by eth0 for a filter": BrokenPod(
        "filtered",
        TPROXY,
        "nft 'table inet x { chain c { type filter hook output priority 0; policy drop; oif lo accept;"
        " meta skgid 1337 accept; meta l4proto icmpv6 accept; }; }'",
        goes="in",
        transparent=True,
        proxy_uid=0,
        is_of_pod=True,
        has_traffic=False,  # as above
        message="no rule accepts answers to what the proxy sends on",
    ),
    "answers of the app are dropped on lo": BrokenPod(
        "filtered",
        TPROXY,
        "nft 'table inet x { chain c { type filter hook postrouting priority 0; oif lo tcp sport 8080 drop; }; }'",
        goes="in",
        transparent=True,
        proxy_uid=0,
        has_traffic=False,  # as above
        message="a foreign rule drops answers to what the proxy sends on",
    ),
    "::6 alone is gone": BrokenPod(
        "rule-missing",
        breaks="ip -6 address del ::6/128 dev lo",
        goes="in6",
        is_of_pod=True,
        has_traffic=False,  # as above
        message="the address ::6/128 on lo is missing",
    ),
    "lo has lost its address": BrokenPod("no-route", breaks="ip address del 127.0.0.1/8 dev lo"),
    "a device drops what comes in": BrokenPod(
        "filtered",
        breaks='nft "add table netdev x";'
        ' nft "add chain netdev x c { type filter hook ingress device eth0 priority 0; }";'
        f' nft "add rule netdev x c tcp dport {APP_PORT} drop"',
        goes="in",
    ),
    "IPsec drops it": BrokenPod(
        "ipsec", breaks="ip xfrm policy add src 10.0.0.0/8 dst 203.0.113.0/24 dir out action block"
    ),
    "IPsec drops what comes in": BrokenPod(
        "ipsec", breaks=f"ip xfrm policy add proto tcp dport {APP_PORT} dir in action block", goes="in"
    ),
    "dropped, but for what a chain may accept": BrokenPod(
        "filtered",
        breaks="nft 'add table inet fw; add chain inet fw a { tcp dport 80 numgen random mod 2 0 accept; };"
        " add chain inet fw in { type filter hook prerouting priority -160; policy drop; iif lo accept; jump a; }'",
        goes="in",
        is_of_pod=True,
    ),
    "answers are dropped": BrokenPod("filtered", breaks="iptables -A OUTPUT -p tcp --sport 15001 -j DROP"),
    "answers are dropped behind": BrokenPod("filtered", breaks="iptables -A INPUT -p tcp --sport 80 -j DROP"),
    "ARP is dropped": BrokenPod(
        "no-route",
        breaks="nft 'table arp x { chain c { type filter hook output priority 0; arp operation request drop; }; }';"
        " ip neigh flush dev eth0; bash -c 'echo > /dev/udp/{peer}/9'",
        has_traffic=False,  # as above
        is_of_pod=True,
        message="{peer} does not answer on eth0: what is sent there does not leave the pod",
    ),
    "no host has the gateway's address": BrokenPod(
        "no-route",
        breaks="ip route replace default via 10.77.0.200 dev eth0; bash -c 'echo > /dev/udp/203.0.113.9/9'",
        has_traffic=False,
        is_of_pod=True,
        message="10.77.0.200 does not answer on eth0",
    ),
    "the pod's address of IPv6 is deprecated": BrokenPod(
        "no-route",
        breaks="ip -6 address change fd77::2/64 dev eth0 preferred_lft 0",
        goes="out6",
        has_traffic=False,
        is_of_pod=True,
        message="leaves the pod from ::6, an address of lo: no answer comes",
    ),
    "a policy rule for IPv6": BrokenPod(
        "no-route", breaks="ip -6 rule add uidrange 1000-1000 prohibit", goes="out6", is_of_pod=True
    ),
    "answers to what the proxy sends on are dropped": BrokenPod(
        "filtered",
        breaks="iptables -A INPUT -i eth0 -p tcp -m multiport ! --dports 15006,15021 -j DROP",
        uid=1000,
        is_of_pod=True,
        has_traffic=False,  # the listener of this test does not go on to the destination, as a proxy would
        message="drops answers to what the proxy sends on: -i eth0",
        where="ip filter INPUT, hook INPUT, priority 0, rule 1",
    ),
    "a firewall without a rule for answers": BrokenPod(
        "filtered",
        breaks="iptables -P INPUT DROP; iptables -A INPUT -i lo -j ACCEPT;"
        " iptables -A INPUT -p tcp --dport 15006 -j ACCEPT",
        is_of_pod=True,
        has_traffic=False,
        message="no rule accepts answers to what the proxy sends on, and the chain's policy is DROP\nAccept answers",
    ),
    "answers to clients are dropped": BrokenPod(
        "filtered",
        breaks="iptables -t mangle -A OUTPUT -p tcp --sport 15006 -j DROP",
        goes="in",
        message="a foreign rule drops its answers: -p tcp",
    ),
    "nothing is tracked on lo": BrokenPod("foreign-rule", breaks="iptables -t raw -A OUTPUT -o lo -j NOTRACK"),
    "an egress firewall without answers": BrokenPod(
        "filtered", breaks="iptables -P OUTPUT DROP; iptables -A OUTPUT -p tcp -m multiport --dports 80,15001 -j ACCEPT"
    ),
    "only the first packet comes through": BrokenPod(
        "filtered", breaks="iptables -t mangle -A OUTPUT -p tcp --dport 80 ! --syn -j DROP"
    ),
    "only the first packet of the app comes through": BrokenPod(
        "filtered",
        breaks="iptables -t mangle -A OUTPUT -p tcp --dport 80 ! --syn -m owner --uid-owner 1000 -j DROP",
        message="a foreign rule drops its later packets: -p tcp",
    ),
    # from reports of users
    "connections are not tracked": BrokenPod(
        "foreign-rule", breaks=f"iptables -t raw -I OUTPUT -p tcp -d {ELSEWHERE} -j NOTRACK"
    ),
    "docker in the pod": BrokenPod(
        "nat-first",
        breaks="iptables -t nat -N DOCKER; iptables -t nat -I PREROUTING -j DOCKER;"
        f" iptables -t nat -A DOCKER ! -i docker0 -p tcp --dport {APP_PORT} -j DNAT --to-destination 203.0.113.77:80",
        goes="in",
        backend="iptables",
    ),
    "the proxy listens on IPv6 alone": BrokenPod("not-listening", addresses=("::",)),
    "the inbound listener is on loopback": BrokenPod("not-listening", addresses=("127.0.0.1", "::1"), goes="in"),
    "no route back to the client": BrokenPod("no-route", breaks="ip route add blackhole {peer}", goes="in"),
    "::1 is gone": BrokenPod(
        "no-route",
        breaks="sysctl -wq net.ipv6.conf.lo.disable_ipv6=1",
        goes="out6",
        message="do not reach the proxy; ::6 does not lead to lo: the proxy cannot call the app from it",
        is_of_pod=True,
    ),
    "lo has one address": BrokenPod(
        "no-route",
        breaks="ip address del 127.0.0.1/8 dev lo; ip address add 127.0.0.1/32 dev lo",
        goes="in",
        has_traffic=False,  # the listener of this test does not call the app, as a proxy would
        message="127.0.0.6 does not lead to lo: the proxy cannot call the app from it",
        is_of_pod=True,
    ),
    "routes refuse the proxy's user": BrokenPod(
        "no-route",
        breaks="ip rule add pref 100 uidrange 1337-1337 prohibit",
        has_traffic=False,  # the listener of this test does not go on to the destination, as a proxy would
        message="a policy rule refuses what the proxy (user 1337) sends to 203.0.113.9",
        is_of_pod=True,
    ),
    "routes refuse the answers of the proxy": BrokenPod(
        "no-route", breaks="ip rule add pref 100 uidrange 1337-1337 prohibit", goes="in", is_of_pod=True
    ),
    "routes refuse the answers from the proxy's port": BrokenPod(
        "no-route",
        breaks="ip rule add pref 100 sport 15006 prohibit",
        goes="in",
        message="the answers to {peer} are lost",
    ),
    "routes lead the answers to lo": BrokenPod(
        "no-route",
        breaks="ip route add {peer} dev lo",
        goes="in",
        message="the answers to {peer} are lost",
    ),
    "a route leads to lo": BrokenPod(
        "no-route",
        breaks="ip route add 203.0.113.0/24 dev lo",
        is_of_pod=True,
        message=f"the route to {ELSEWHERE} leads to lo, where no one has that address",
    ),
    "a mark leads what the proxy sends on to lo": BrokenPod(
        "foreign-rule",
        breaks=BEFORE.replace("type %s", "type route") % (-150, "meta mark set 7")
        + "; ip rule add pref 50 fwmark 7 lookup 77; ip route add default dev lo table 77",
        has_traffic=False,  # the listener of this test does not go on to the destination, as a proxy would
        is_of_pod=True,
        message="the policy rule `50: from all fwmark 0x7 lookup 77` leads to lo: ",
    ),
    "a mark leads the answers of the proxy to another interface": BrokenPod(
        "foreign-rule",
        breaks="ip link add net1 type veth peer name net2; ip link set net1 up; ip link set net2 up;"
        " iptables -t mangle -A OUTPUT -p tcp --sport 15006 -j MARK --set-mark 7;"
        " ip rule add pref 50 fwmark 7 lookup 77; ip route add default dev net1 table 77",
        goes="in",
        is_of_pod=True,
    ),
    "a mark leads the answers of the proxy to lo": BrokenPod(
        "foreign-rule",
        breaks="iptables -t mangle -A OUTPUT -p tcp --sport 15006 -j MARK --set-mark 7;"
        " ip rule add pref 50 fwmark 7 lookup 77; ip route add default dev lo table 77",
        goes="in",
        message="marks its answers (0x7), and the policy rule `50: from all fwmark 0x7 lookup 77` leads to lo: -p tcp",
        is_of_pod=True,
    ),
    "a foreign redirect to the proxy's other port": BrokenPod(
        "nat-first",
        breaks="iptables -t nat -I OUTPUT -p tcp -m owner --uid-owner 1000 -j REDIRECT --to-ports 15006",
        backend="iptables",
        has_traffic=False,  # it is the proxy's, and expects other connections
        is_of_pod=True,
        message="a foreign rule precedes ours, and sends the connection to port 15006",
    ),
    "a foreign redirect to one of several ports": BrokenPod(
        "nat-first",
        breaks="iptables -t nat -I OUTPUT -p tcp -j REDIRECT --to-ports 15002-15003",
        message="a foreign rule precedes ours, and sends the connection to port 15003, or elsewhere",
    ),
    "a foreign choice of two addresses": BrokenPod(
        "nat-first",
        breaks="nft 'add table ip x; add chain ip x c { type nat hook output priority -110; };"
        " add rule ip x c tcp dport 80 dnat to numgen random mod 2 map { 0 : 203.0.113.77, 1 : 203.0.113.78 }'",
        message="or elsewhere",
    ),
    "the kernel remembers no handshake": BrokenPod(
        "sysctl",
        TPROXY,
        "sysctl -wq net.ipv4.tcp_syncookies=2",
        goes="in",
        transparent=True,
        proxy_uid=0,
        is_of_pod=True,
        message="net.ipv4.tcp_syncookies is 2",
    ),
    "routes refuse the answers of other users than the proxy": BrokenPod(
        "no-route", breaks="ip rule add pref 100 uidrange 0-1336 prohibit", is_of_pod=True
    ),
    "table local is behind a rule for local addresses": BrokenPod(
        "no-route",
        breaks="ip -6 rule add pref 5 to ::1 prohibit; ip -6 rule add pref 10 lookup local; ip -6 rule del pref 0",
        goes="out6",
        message="Run `ip -6 rule add pref 0 lookup local` in the pod's namespace: table local has to be first.",
        is_of_pod=True,
    ),
    "table local is behind a rule for what the pod sends": BrokenPod(
        "no-route",
        breaks="ip -6 rule add pref 5 iif lo prohibit; ip -6 rule add pref 10 lookup local; ip -6 rule del pref 0",
        goes="in6",
        message="a route or policy rule refuses what the proxy sends to the app at fd77::2",  # what the proxy calls
    ),
    "the destination is prohibited": BrokenPod(
        "no-route",
        breaks="ip route add prohibit 203.0.113.0/24",
        message="a route or policy rule of type prohibit refuses 203.0.113.9: the connection fails",
    ),
    "the app has the proxy's group": BrokenPod("proxy-user", gid=1337),
    "another agent flushed nat": BrokenPod(
        "rule-missing", breaks="iptables -t nat -F", backend="iptables", message="is missing: -p tcp -j ISTIO-OUTPUT"
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_cause_and_no_other(pod_pair: PodPair, name: str, request: pytest.FixtureRequest) -> None:
    situation = BROKEN[name]
    pod, peer = pod_pair
    if situation.transparent:
        request.getfixturevalue("in_group_of_proxy")  # before there are threads: it sets their groups, too
    peer.own_every_address()
    peer.listener(("0.0.0.0", 80), ("::", 80), ("0.0.0.0", 53), ("0.0.0.0", 4433), label="world")
    pod.listener(("0.0.0.0", APP_PORT), ("::", APP_PORT), label="app", uid=1000)
    if situation.proxy_uid is not None:
        ends = [(address, port) for address in situation.addresses for port in situation.ports]
        gid = 1337 if situation.transparent else None
        pod.listener(*ends, label="proxy", uid=situation.proxy_uid, gid=gid, transparent=situation.transparent)
    if situation.options != "none":
        with pod.entered():
            operations.apply(given(f"--backend {situation.backend} -x 192.0.2.0/24 {situation.options}"))
    if situation.breaks:
        pod.run(["sh", "-ec", situation.breaks.replace("{peer}", peer.ipv4)])

    found = why(pod, packet(situation, pod_pair))

    assert [cause.kind for cause in found.causes] == [situation.kind], found.causes
    assert all(cause.message and cause.remedy for cause in found.causes)
    assert situation.message.replace("{peer}", peer.ipv4) in f"{found.causes[0].message}\n{found.causes[0].remedy}"
    verified, pod_findings = assert_the_verbs_agree(pod)
    if situation.is_of_pod:
        (cause,) = pod_findings.causes
        assert cause.kind == situation.kind
        assert situation.where in ("", str(cause.where))
    if situation.kind == "excluded":
        assert f"{situation.options.split()[-1]} (test)" in found.causes[0].remedy
    if situation.has_traffic:
        assert reached(situation, pod_pair) != "proxy"
    assert_the_connections_agree(pod_pair, of_pod=(verified, pod_findings), ends_listen=True)
    assert_the_remedy_works(situation, pod_pair, found)


AGENT_LOSSES = {
    "iptables -A OUTPUT -p udp --dport 53 -m owner --uid-owner 1337 -j DROP": ("filtered", "what the proxy sends on"),
    "iptables -A INPUT -i eth0 -p udp --sport 53 -j DROP": ("filtered", "answers to what the proxy sends on"),
    "ip rule add pref 50 ipproto udp dport 53 uidrange 1337-1337 prohibit": ("no-route", "what the proxy (user 1337)"),
}


@pytest.mark.parametrize("options", ["--redirect-dns", DNS])
@pytest.mark.parametrize("breaks", AGENT_LOSSES)
def test_what_the_agent_asks_is_lost(pod_pair: PodPair, breaks: str, options: str) -> None:
    """Its own questions go to the server of the pod's resolv.conf that the app queries, or to an unknown one."""
    pod, peer = pod_pair
    kind, message = AGENT_LOSSES[breaks]
    peer.own_every_address()
    peer.listener(("0.0.0.0", 53), label="server")
    pod.listener(*[(each, port) for each in ("0.0.0.0", "::") for port in (15001, 15006, 15053)], uid=1337)
    with pod.entered():
        operations.apply(given(options), host=FakePod(servers=(ELSEWHERE,)))
    look_up, agent = packet(BrokenPod("", goes="dns"), pod_pair), pod.client(uid=1337)
    assert why(pod, look_up).causes == ()
    assert agent.connect(ELSEWHERE, 53, "udp").label == "server"

    pod.run(["sh", "-ec", breaks])

    (cause,) = why(pod, look_up).causes
    assert (cause.kind, message in cause.message) == (kind, True), cause
    assert agent.connect(ELSEWHERE, 53, "udp", timeout=0.3).label == ""
    assert pod.client(uid=1000).connect(ELSEWHERE, 53, "udp").label == pod.name


def test_which_server_the_agent_asks_is_unknown(pod_pair: PodPair) -> None:
    pod, peer = pod_pair
    peer.own_every_address()
    pod.listener(*[(each, port) for each in ("0.0.0.0", "::") for port in (15001, 15006, 15053)], uid=1337)
    with pod.entered():
        operations.apply(given(DNS))
    pod.run(["iptables", "-A", "OUTPUT", "-d", ELSEWHERE, "-m", "owner", "--uid-owner", "1337", "-j", "DROP"])

    found = why(pod, packet(BrokenPod("", goes="dns"), pod_pair))

    assert (found.verdict, found.causes) == ("cannot be told", ())
    assert found.notes[0].message.startswith("if the agent asks this server, a foreign rule drops what the proxy sends")


def assert_the_remedy_works(situation: BrokenPod, pair: PodPair, found: Diagnosis) -> None:
    """Execute a remedy that is a command, as it is printed: nothing is wrong any more, and other settings are kept.

    It is executed outside the pod, in the peer's namespace, as `why --netns` prints it.
    """
    pod, peer = pair
    if not TO_RUN.findall(found.causes[0].remedy):
        return
    (cause, *_) = diagnosis.why(packet(situation, pair), namespace=pod.path).causes
    assert cause.kind == found.causes[0].kind
    commands = TO_RUN.findall(with_target(cause.remedy, pod.path))
    with pod.entered():
        before = record.read()
    for command in commands:
        peer.run(["sh", "-ec", re.sub("^capture", str(CAPTURE), command)])
    if situation.kind == "interface-down":
        pod.ip(f"route replace default via {peer.ipv4}")
    with pod.entered():
        now = record.read()
    flags = {f"--{each.flag}": each for each in option.OPTIONS} | {f"-{each.short}": each for each in option.OPTIONS}
    changed = {flags[word] for command in commands for word in re.split("[ =]", command) if word in flags}
    assert before is None or kept(before, changed) == kept(now, changed)
    assert changed or before is None or now == before
    after = why(pod, packet(situation, pair))
    if situation.behind and after.causes:
        assert {each.kind for each in after.causes} == {situation.behind}
        assert_the_remedy_works(situation, pair, after)
        return
    assert after.causes == ()
    assert not situation.is_of_pod or why(pod).causes == ()


def kept(recorded: Record | None, changed: set[Option[Any]]) -> tuple[dict[str, str], str, str]:
    """Return the recorded settings that no command changed, with backend and variant."""
    assert recorded is not None
    left = {*recorded.settings.explicit}.difference(changed, option.BACKEND_OPTIONS)
    return {each.name: recorded.settings.text(each) for each in left}, recorded.backend, recorded.variant


@pytest.mark.parametrize("driver", ONE_FOR_EACH_PLACE)
def test_healthy_pods_have_no_cause(netns: NamespaceFactory, driver: str) -> None:
    pair = netns.pod_pair()
    pod = pair.pod
    pair.peer.own_every_address()
    pod.run(["sh", "-ec", HARMLESS])
    pod.listener(*[(address, port) for address in ("0.0.0.0", "::") for port in (15001, 15006, 15053)], uid=1337)
    for number, texts in enumerate(FIFTY):
        if number % len(ONE_FOR_EACH_PLACE) == ONE_FOR_EACH_PLACE.index(driver):
            with pod.entered():
                operations.apply(settings(texts, DRIVERS[driver]))
            assert why(pod).causes == (), texts
            assert why(pod, packet(BrokenPod(""), pair)).causes == (), texts
            assert why(pod, packet(BrokenPod("", goes="in"), pair)).causes == (), texts
            assert pod.client(1000).connect(ELSEWHERE, 80, timeout=1).label == pod.name, texts


def test_a_dropped_packet_too_big_is_noted(pod_pair: PodPair) -> None:
    """Connections open, and hang with the first large packet if a link on their way is narrow."""
    pod = pod_pair.pod
    pod.listener(*[(each, port) for each in ("0.0.0.0", "::") for port in (15001, 15006)], uid=1337)
    with pod.entered():
        operations.apply(given(""))
    pod.run(["ip6tables", "-A", "INPUT", "-p", "icmpv6", "--icmpv6-type", "packet-too-big", "-j", "DROP"])

    assert why(pod, packet(BrokenPod(""), pod_pair)).notes == ()
    found = why(pod, packet(BrokenPod("", goes="out6"), pod_pair))

    assert (found.verdict, [note.kind for note in found.notes]) == ("captured", ["filtered"])
    assert "drops what tells the pod that packets are too big (ICMPv6): -p ipv6-icmp" in found.notes[0].message


def test_a_proxy_of_another_user_breaks_what_goes_out_alone(pod_pair: PodPair) -> None:
    """To the app it calls from an address that is left out for every user."""
    pod, peer = pod_pair
    peer.own_every_address()
    pod.listener(("0.0.0.0", APP_PORT), label="app", uid=1000)
    pod.listener(*[(each, port) for each in ("0.0.0.0", "::") for port in (15001, 15006)], label="proxy", uid=1500)
    with pod.entered():
        operations.apply(given(""))

    found = {goes: why(pod, packet(BrokenPod("", goes=goes), pod_pair)) for goes in ("out", "in")}

    assert [each.verdict for each in found.values()] == ["broken", "captured"]
    assert [cause.kind for cause in found["out"].causes] == [note.kind for note in found["in"].notes]
    assert peer.client().connect(pod.ipv4, APP_PORT).label == "proxy"
    assert pod.client(1500).connect(pod.ipv4, APP_PORT, source="127.0.0.6").label == "app"
    assert pod.client(1500).connect(ELSEWHERE, 80).label == "proxy"  # itself, again


def test_a_port_of_two_sockets_is_noted_once(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    pod.listener(("0.0.0.0", 9090), ("::", 9090), uid=1000)
    with pod.entered():
        operations.apply(given("-g 0"))  # the group of this process

    assert [note.where for note in why(pod).notes] == ["port 9090"]


def test_a_second_set_that_does_the_same_breaks_no_connection(pod_pair: PodPair) -> None:
    pod, peer = pod_pair
    peer.own_every_address()
    peer.listener(("0.0.0.0", 80), label="world")
    pod.listener(*[(each, port) for each in ("0.0.0.0", "::") for port in (15001, 15006)], label="proxy", uid=1337)
    with pod.entered():
        operations.apply(given("--backend iptables"))
        script = operations.render(given("--backend nftables"))[0][1]
    pod.run(["nft", "-f", "-"], stdin=script)

    found = why(pod, packet(BrokenPod(""), pod_pair))

    assert (found.verdict, [note.kind for note in found.notes]) == ("captured", ["second-set"])
    assert [each.kind for each in why(pod).causes] == ["second-set"]
    assert pod.client(1000).connect(ELSEWHERE, 80).label == "proxy"
    assert pod.client(1337).connect(ELSEWHERE, 80).label == "world"


NOT_JUDGED = {
    "iptables -A INPUT -p tcp -m conntrack --ctorigdstport 80 -j DROP": "-m conntrack --ctorigdstport 80 -j DROP",
    "iptables -A INPUT -p tcp -m conntrack ! --ctorigdst 203.0.113.0/24 -j DROP": "! --ctorigdst 203.0.113.0/24 -j",
    "iptables -t mangle -A OUTPUT -j TTL --ttl-set 1": ": -j TTL --ttl-set 1",
    "ip6tables -t mangle -A OUTPUT -j HL --hl-set 1": ": -j HL --hl-set 1",
}


@pytest.mark.parametrize("breaks", NOT_JUDGED)
def test_what_cannot_be_judged_is_told_in_words(pod_pair: PodPair, breaks: str) -> None:
    pod = pod_pair.pod
    pod.listener(*[(each, port) for each in ("0.0.0.0", "::") for port in (15001, 15006)], uid=1337)
    with pod.entered():
        operations.apply(given(""))
    pod.run(["sh", "-ec", breaks])

    for found in (why(pod), why(pod, packet(BrokenPod("", goes="out6" if "ip6" in breaks else "out"), pod_pair))):
        assert (found.verdict, [note.kind for note in found.notes]) == ("cannot be told", ["unjudged"])
        assert NOT_JUDGED[breaks] in found.notes[0].message


def test_answers_that_leave_by_another_interface_are_noted(pod_pair: PodPair) -> None:
    pod, peer = pod_pair
    pod.listener(("0.0.0.0", 15006), ("::", 15006), ("0.0.0.0", 15001), ("::", 15001), uid=1337)
    with pod.entered():
        operations.apply(given(""))
    inbound = packet(BrokenPod("", goes="in"), pod_pair)
    assert why(pod, inbound).notes == ()
    pod.ip("link add net1 type veth peer name net2", "link set net1 up", "link set net2 up")
    pod.ip(f"route add {peer.ipv4} dev net1")

    found = why(pod, inbound)

    (note,) = found.notes
    assert (found.verdict, note.where) == ("captured", "net1")
    assert note.message == "answers leave by net1, and not by eth0, by which the connection comes in"


def test_a_neighbour_that_was_silent_may_answer_again(pod_pair: PodPair, monkeypatch: pytest.MonkeyPatch) -> None:
    pod, peer = pod_pair
    peer.own_every_address()
    peer.listener(("0.0.0.0", 80), ("::", 80), label="world")
    pod.listener(("0.0.0.0", APP_PORT), ("::", APP_PORT), label="app", uid=1000)
    pod.listener(*[(each, port) for each in ("0.0.0.0", "::") for port in (15001, 15006)], label="proxy", uid=1337)
    with pod.entered():
        operations.apply(given(""))
    peer.run(["ip", "link", "set", "eth0", "arp", "off"])
    pod.run(["sh", "-ec", f"ip neigh flush dev eth0; bash -c 'echo > /dev/udp/{peer.ipv4}/9'"])
    wait_until(lambda: "FAILED" in pod.run(["ip", "neigh"]).stdout)
    assert [cause.case for cause in why(pod, packet(BrokenPod(""), pod_pair)).causes] == ["neighbour"]
    peer.run(["ip", "link", "set", "eth0", "arp", "on"])
    assert why(pod, packet(BrokenPod("", goes="in"), pod_pair)).verdict == "captured"

    monkeypatch.setattr(connection, "RECENT", -1)

    for found in (why(pod), why(pod, packet(BrokenPod(""), pod_pair))):
        assert (found.verdict, [note.case for note in found.notes]) == ("captured", ["neighbour, earlier"])
    assert_the_connections_agree(pod_pair, of_pod=assert_the_verbs_agree(pod), ends_listen=True)


@pytest.mark.parametrize(
    "breaks",
    [
        "ip rule add pref 50 uidrange 0-0 prohibit",
        (
            "ip rule add pref 50 ipproto tcp lookup 77; ip route add default via 10.77.0.3 table 77;"
            " ip route replace default via 10.77.0.200; bash -c 'echo > /dev/udp/203.0.113.9/9'"
        ),
    ],
)
def test_what_is_about_other_connections_is_no_cause(pod_pair: PodPair, breaks: str) -> None:
    pod, peer = pod_pair
    peer.own_every_address()
    peer.listener(("0.0.0.0", 80), ("::", 80), ("0.0.0.0", 53), label="world")
    pod.listener(("0.0.0.0", APP_PORT), ("::", APP_PORT), label="app", uid=1000)
    pod.listener(*[(each, port) for each in ("0.0.0.0", "::") for port in (15001, 15006)], label="proxy", uid=1337)
    with pod.entered():
        operations.apply(given(""))
    pod.run(["sh", "-ec", breaks])

    assert_the_connections_agree(pod_pair, of_pod=assert_the_verbs_agree(pod), ends_listen=True)
    assert why(pod).verdict == "captured"


HARMLESS = (
    "iptables -A INPUT -i eth0 -p tcp --dport 9999 -j DROP; iptables -t raw -I OUTPUT -p udp --dport 123 -j NOTRACK;"
    " iptables -A OUTPUT ! -o wg0 -p udp --dport 51820 -j REJECT;"
    " iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"
)
"""Foreign rules that do nothing to captured connections."""

"""Broken pods and healthy ones: ``why`` names the cause of each broken one and no other, none of the healthy ones.

Traffic agrees: what has a cause does not reach the proxy. The last situations are from reports of users.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from capture import operations
from capture.analysis.explanation import Statement, statements_about
from capture.analysis.foreign_effects import STOPS_DISCOVERY
from capture.analysis.trace import trace_whole_path
from capture.backends.iptables.render import shown_rule
from capture.cli.doctor.examination import examine
from capture.cli.doctor.examination import pod_findings as doctor_findings
from capture.errors import EXIT_UNKNOWN
from capture.model.addresses import parse_address
from capture.model.packet import Packet
from capture.netlink import ipsec
from capture.operations import diagnosis, tracing
from capture.operations.exclusions import uncaptured_cause
from capture.operations.situation import read_situation
from capture.report.diagnosis_text import diagnosis_lines
from capture.report.target import with_target
from capture.settings import options as option
from capture.settings.settings import ExplicitValue, Settings
from capture.state import record
from capture.system.pod_host import PodFromInside
from cni.agent import examination
from pytest_netns import NamespaceFactory, Pod, PodPair
from support.captures.agreeing import assert_the_connections_agree
from support.captures.meshes import FIFTY
from support.captures.settings import DRIVERS, ONE_FOR_EACH_PLACE, settings
from support.processes.waiting import wait_until
from support.traffic.proxies import one_proxy

if TYPE_CHECKING:
    from typing import Any

    from capture.analysis.base_chains import Situation
    from capture.analysis.explanation import Statement
    from capture.model.ruleset import ProtocolName, Ruleset
    from capture.operations.diagnosis import Diagnosis
    from capture.operations.results import Verified
    from capture.settings.options import Option
    from capture.state.record import Record

from support.processes.our_programs import run_program

ELSEWHERE, ELSEWHERE6 = "203.0.113.9", "2001:db8::9"
APP_PORT = 8080
CAPTURE = Path(sys.executable).with_name("capture")
NATIVE = "nft %s inet istio-proxy-nat"
TPROXY = "-m TPROXY"
DNS = "--redirect-dns --capture-all-dns"
SECOND_SET = (
    "iptables-nft -t nat -N ISTIO_OUTPUT; iptables-nft -t nat -A ISTIO_OUTPUT -p tcp -j REDIRECT --to-ports 16001;"
    " iptables-nft -t nat -A OUTPUT -p tcp -j ISTIO_OUTPUT"
)
BEFORE = "nft 'add table ip x; add chain ip x c { type %s hook output priority %s; }; add rule ip x c tcp dport 80 %s'"
TO_OTHER = "DNAT --to-destination 203.0.113.77:80"


@dataclass(frozen=True)
class BrokenPod:
    """The one cause that is named, the capture's options, what breaks the pod, the connection, and the proxy."""

    kind: str
    options: str = ""
    breaks: str = ""
    goes: str = "out"
    uid: int = 1000
    gid: int = 1000
    backend: str = "nftables"
    proxy_uid: int | None = 1337
    addresses: tuple[str, ...] = ("0.0.0.0", "::")
    ports: tuple[int, ...] = (15001, 15006)
    transparent: bool = False
    has_traffic: bool = True
    """Whether traffic shows it: a proxy that is captured again answers; the route of TPROXY is for answers alone."""
    is_of_pod: bool = False
    """Whether it is the one cause of the whole pod, too."""
    message: str = ""
    where: str = ""
    behind: str = ""
    """The kind of a second cause, which shows once the first one is mended."""


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
    ),
    "another transparent proxy in our table": BrokenPod(
        "foreign-rule",
        TPROXY,
        f"iptables -t mangle -I PREROUTING -p tcp --dport {APP_PORT} -j TPROXY --on-port 9000 --tproxy-mark 1",
        goes="in",
        backend="iptables",
        transparent=True,
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
    ),
    "lo is down": BrokenPod("lo-down", breaks="ip link set lo down", is_of_pod=True),
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
    "IPsec drops everything": BrokenPod(
        "ipsec", breaks="ip xfrm policy add dir out src 0.0.0.0/0 dst 0.0.0.0/0 action block", is_of_pod=True
    ),
    "eth0 is down": BrokenPod("interface-down", breaks="ip link set eth0 down", is_of_pod=True),
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
    "IPv4 alone listens": BrokenPod("not-listening", addresses=("0.0.0.0",), goes="out6"),
    "the proxy is another user": BrokenPod("proxy-wrong-user", proxy_uid=2000, has_traffic=False),
    "the proxy is for REDIRECT": BrokenPod("proxy-mode", TPROXY, goes="in"),
    "the policy rule is gone": BrokenPod(
        "route-missing", TPROXY, "ip rule del fwmark 1337", goes="in", transparent=True, has_traffic=False
    ),
    "the route is gone": BrokenPod(
        "route-missing", TPROXY, "ip route flush table 133", goes="in", transparent=True, has_traffic=False
    ),
    "another route is in its place": BrokenPod(
        "route-missing",
        TPROXY,
        "ip route replace prohibit default table 133",
        goes="in",
        transparent=True,
        has_traffic=False,
        message="; another default route is in its place",
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
    "the proxy's call to the app is dropped": BrokenPod(
        "filtered",
        breaks=f"iptables -A INPUT -i lo -p tcp --dport {APP_PORT} -j DROP",
        goes="in",
        message="drops what the proxy sends on",
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
        is_of_pod=True,
        has_traffic=False,
        message="do not come back to the proxy: `-p tcp -m mark --mark 0x539 -j CONNMARK --save-mark",
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
        breaks="nft 'add table arp x; add chain arp x c { type filter hook input priority 0; policy drop; }';"
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
        "filtered", breaks="iptables -t mangle -A OUTPUT -p tcp --sport 15006 -j DROP", goes="in"
    ),
    "nothing is tracked on lo": BrokenPod("foreign-rule", breaks="iptables -t raw -A OUTPUT -o lo -j NOTRACK"),
    "an egress firewall without answers": BrokenPod(
        "filtered", breaks="iptables -P OUTPUT DROP; iptables -A OUTPUT -p tcp -m multiport --dports 80,15001 -j ACCEPT"
    ),
    "only the first packet comes through": BrokenPod(
        "filtered", breaks="iptables -t mangle -A OUTPUT -p tcp --dport 80 ! --syn -j DROP"
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
        "no-route", breaks="ip rule add pref 100 sport 15006 prohibit", goes="in"
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
        is_of_pod=True,
        message="net.ipv4.tcp_syncookies is 2",
    ),
    "routes refuse the answers of other users than the proxy": BrokenPod(
        "no-route", breaks="ip rule add pref 100 uidrange 0-1336 prohibit", is_of_pod=True
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


def given(text: str) -> Settings:
    """Return settings by the names of flags."""
    flags = {f"-{each.short}": each for each in option.OPTIONS if each.short} | {
        each.name: each for each in option.OPTIONS
    }
    found: dict[Any, ExplicitValue] = {}
    words = shlex.split(text)
    while words:
        each = flags[words.pop(0)]
        value = words.pop(0) if words and not words[0].startswith("-") else "true"
        found[each] = ExplicitValue(value, "test")
    return Settings(found)


def packet(situation: BrokenPod, pair: PodPair) -> Packet:
    pod, peer = pair
    goes = situation.goes
    if goes == "in":
        source = parse_address(peer.ipv4)
        return Packet("tcp", parse_address(pod.ipv4), APP_PORT, source=source, source_port=45000, in_interface="eth0")
    port = {"dns": 53, "udp": 4433}.get(goes, 80)
    destination = parse_address(ELSEWHERE6 if goes == "out6" else ELSEWHERE)
    protocol: ProtocolName = "udp" if goes in ("dns", "udp") else "tcp"
    return Packet(protocol, destination, port, uid=situation.uid, gid=situation.gid)


def reached(situation: BrokenPod, pair: PodPair) -> str:
    """Return who answers."""
    pod, peer = pair
    sent = packet(situation, pair)
    if situation.goes == "in":
        return peer.client().connect(pod.ipv4, APP_PORT, timeout=0.3).label
    destination = ELSEWHERE6 if situation.goes == "out6" else ELSEWHERE
    client = pod.client(uid=situation.uid, gid=situation.gid)
    return client.connect(destination, sent.port, sent.protocol, timeout=0.3).label


def why(pod: Pod, sent: Packet | None = None) -> Diagnosis:
    with pod.entered():
        return diagnosis.why(sent)


@pytest.mark.parametrize("name", BROKEN)
def test_the_cause_and_no_other(pod_pair: PodPair, name: str) -> None:
    situation = BROKEN[name]
    pod, peer = pod_pair
    peer.own_every_address()
    peer.listener(("0.0.0.0", 80), ("::", 80), ("0.0.0.0", 53), ("0.0.0.0", 4433), label="world")
    pod.listener(("0.0.0.0", APP_PORT), label="app", uid=1000)
    if situation.proxy_uid is not None:
        ends = [(address, port) for address in situation.addresses for port in situation.ports]
        pod.listener(*ends, label="proxy", uid=situation.proxy_uid, transparent=situation.transparent)
    if situation.options != "none":
        with pod.entered():
            operations.apply(given(f"--backend {situation.backend} -x 192.0.2.0/24 {situation.options}"))
    if situation.breaks:
        pod.run(["sh", "-ec", situation.breaks.replace("{peer}", peer.ipv4)])

    found = why(pod, packet(situation, pod_pair))

    assert [cause.kind for cause in found.causes] == [situation.kind], found.causes
    assert all(cause.message and cause.remedy for cause in found.causes)
    assert situation.message.replace("{peer}", peer.ipv4) in f"{found.causes[0].message}\n{found.causes[0].remedy}"
    if situation.is_of_pod:
        (cause,) = why(pod).causes
        assert cause.kind == situation.kind
        assert situation.where in ("", str(cause.where))
    if situation.kind == "excluded":
        assert f"{situation.options.split()[-1]} (test)" in found.causes[0].remedy
    if situation.has_traffic:
        assert reached(situation, pod_pair) != "proxy"
    assert_the_connections_agree(pod_pair, of_pod=assert_the_verbs_agree(pod))
    assert_the_remedy_works(situation, pod_pair, found)


TO_RUN = re.compile(r"(?:\b[Rr]un|that runs:|Set it up:|remove it:) `((?:capture|ip|nft|nsenter|sysctl)[^`]*)`")


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
        pod.ip(f"route add default via {peer.ipv4}")
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


def test_a_proxy_that_accepts_nothing_is_noted_while_connections_wait(pod_pair: PodPair) -> None:
    """Its queue is not full yet: the app's connections are made, and nobody reads what they send."""
    pod, _ = pod_pair
    operations.apply(given("--backend nftables"), pod.path)
    with pod.entered():
        silent = [
            socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True) for port in (15001, 15006)
        ]
    assert why(pod).notes == ()
    outcome = pod.client(1000).connect(ELSEWHERE, 80, timeout=0.3)
    (note,) = why(pod).notes
    for listener in silent:
        listener.close()
    assert outcome.kind.name == "SILENT"
    assert note.message == "the proxy has not accepted 1 connection on tcp port 15001 yet"


def test_remedies_of_several_foreign_rules_name_them_in_a_way_that_stays_true(pod_pair: PodPair) -> None:
    """A rule of nft by its handle; of iptables, whose numbers change, one of a chain, by its number in the kernel."""
    pod, peer = pod_pair
    operations.apply(given("--backend iptables"), pod.path)
    one_proxy(pod)
    for rule in ("-t nat -I OUTPUT -p tcp --dport 80 -j ACCEPT", "-t nat -I OUTPUT -p tcp -m multiport --dports 8,9"):
        pod.run(["iptables-nft", *rule.split()])
    for port in (15001, 15006):
        pod.run(["iptables-nft", "-I", "INPUT", "-p", "tcp", "--dport", str(port), "-j", "DROP"])
    pod.run(["sh", "-ec", BEFORE % ("nat", -110, "counter accept") + "; nft add rule ip x c tcp dport 81 redirect"])

    commands = [command for each in diagnosis.why(namespace=pod.path).causes for command in TO_RUN.findall(each.remedy)]

    entering = f"nsenter --net={pod.path} "
    assert all(command.startswith(entering) for command in commands)
    with pod.entered():
        assert [each for found in examine(pod.path) for each in TO_RUN.findall(found.remedy)][:3] == commands
    assert [command.removeprefix(entering) for command in commands] == [
        "iptables-nft -t filter -D INPUT 1",
        "iptables-nft -t nat -D OUTPUT 2",
        "nft delete rule ip x c handle 3",
    ]
    for command in commands:
        peer.run(command.split())
    (cause,) = diagnosis.why(namespace=pod.path).causes
    peer.run(TO_RUN.findall(cause.remedy)[0].split())
    assert why(pod).causes == ()


def assert_the_verbs_agree(pod: Pod) -> tuple[Verified, Diagnosis]:
    """Return what verify and why conclude of one namespace; fail if dump and doctor, or these, are not compatible."""
    with pod.entered():
        verified, dumped = operations.verify(), operations.dump().verified
    pod_findings = why(pod)
    assert (dumped.conclusion if dumped else "no reference") in (verified.conclusion, "no reference")
    assert bool(pod_findings.causes) or verified.conclusion not in ("drift", "nothing applied")
    assert not any(may_be_spared(pod, each.effect.packet) for each in verified.obstacles if each.effect)
    assert pod_findings.verdict != "captured" or (verified.is_judged and is_captured_by_explain(pod))
    assert any(each.state == "ok" for each in doctor_findings(pod_findings)) is (pod_findings.verdict == "captured")
    return verified, pod_findings


def explained(pod: Pod) -> list[Statement]:
    with pod.entered():
        situation = operations.situation_of()
        return statements_about(dict.fromkeys(situation.ruleset.families, situation), shown_rule)


def may_be_spared(pod: Pod, sent: Packet) -> bool:
    """Return whether `trace` says of a packet that a rule that cannot be judged may accept it."""
    with pod.entered():
        return trace_whole_path(sent, operations.situation_of()).may_be_spared


def is_captured_by_explain(pod: Pod) -> bool:
    """Return whether `explain` has a line of connections to the proxy that are not all over lo."""
    fates = [each.fate for each in explained(pod) if "over lo" not in each.traffic]
    return any(fate is not None and fate.port is not None for fate in fates)


def is_unjudged_by_explain(pod: Pod) -> bool:
    return any(each.fate is None for each in explained(pod))


FILTER = (
    "nft 'add table inet fw; add chain inet fw out { type filter hook output priority %s; }; add rule inet fw out %s'"
)
MAY_ACCEPT = "numgen random mod 2 0 accept; add rule inet fw out oifname lo accept"
UNJUDGED = {
    "may be dropped": FILTER % (-160, "numgen random mod 2 0 drop"),
    "may be accepted before a policy drops it": FILTER % ("0; policy drop", MAY_ACCEPT),
    "may be accepted in a chain before a policy drops it": FILTER
    % (
        "-170; policy drop; }; add chain inet fw a { numgen random mod 2 0 accept; }; add chain inet fw b { jump a",
        "tcp dport 443 jump a; add rule inet fw out jump b; add rule inet fw out oifname lo accept",
    ),
    "may be accepted before a rule drops it": FILTER % (0, f"{MAY_ACCEPT}; add rule inet fw out drop"),
    "a quota": FILTER.replace("; add rule", "; add quota inet fw q over 9 mbytes; add rule")
    % (-160, "oifname eth0 quota name q drop"),
    "few may come in": "iptables -A INPUT -m limit --limit 5/sec -j ACCEPT; iptables -P INPUT DROP",
}


@pytest.mark.parametrize("breaks", UNJUDGED.values(), ids=list(UNJUDGED))
def test_no_verb_calls_a_pod_captured_or_broken_that_cannot_be_judged(pod_pair: PodPair, breaks: str) -> None:
    pod, _ = pod_pair
    one_proxy(pod)
    with pod.entered():
        operations.apply(given(""))
    pod.run(["sh", "-ec", breaks])

    for sent in (None, packet(BrokenPod(""), pod_pair)):
        found = why(pod, sent)
        assert (found.verdict, found.causes, {each.kind for each in found.notes}) == (
            "cannot be told",
            (),
            {"unjudged"},
        )
        assert len(set(found.notes)) == len(found.notes)
    assert is_unjudged_by_explain(pod)
    assert_the_connections_agree(pod_pair, of_pod=assert_the_verbs_agree(pod))
    for command in ("verify", "why"):
        done = run_program(pod, "capture", command, code=None)
        assert (done.returncode, "without effect" in done.stdout) == (EXIT_UNKNOWN, False)
    trace = ("trace", "tcp", f"{ELSEWHERE}:80")
    is_spared = json.loads(run_program(pod, "capture", *trace, "--format", "json").stdout)["may_be_spared"]
    *_, verdict = run_program(pod, "capture", *trace).stdout.splitlines()
    assert (", unless a rule marked ? accepts it, which" in verdict) is is_spared is ("-160" not in breaks)
    dumped = run_program(pod, "capture", "dump").stdout
    assert "\n# not judged in full: our rules match the applied configuration; foreign ones" in dumped
    assert json.loads(run_program(pod, "capture", "dump", "--format", "json").stdout)["certain"] is False
    assert "warning unjudged" in run_program(pod, "capture", "doctor").stdout


@pytest.mark.parametrize("name", ["lo", "eth0"])
def test_a_queue_that_loses_packets_is_named(pod_pair: PodPair, name: str) -> None:
    """As netem of a chaos experiment, which this kernel need not have: no rule sees what is lost."""
    pod, peer = pod_pair
    peer.own_every_address()
    one_proxy(pod)
    operations.apply(given(""), pod.path)
    pod.run(["tc", "qdisc", "add", "dev", name, "root", "blackhole"])
    for sent in (None, packet(BrokenPod("", goes="in"), pod_pair)):
        found = why(pod, sent)
        assert found.verdict == "cannot be told"
        assert f"the queueing discipline blackhole of {name}" in "".join(note.message for note in found.notes)
    client = peer.client() if name == "eth0" else pod.client(uid=1000)
    assert client.connect(pod.ipv4 if name == "eth0" else ELSEWHERE, APP_PORT, timeout=0.3).label != "proxy"


@pytest.mark.parametrize(
    "rule", ["ipproto udp prohibit", "uidrange 0-0 prohibit", "uidrange 0-1336 prohibit", "sport 15001 prohibit"]
)
def test_a_policy_rule_for_others_stops_no_connection_that_comes_in(pod_pair: PodPair, rule: str) -> None:
    pod, peer = pod_pair
    one_proxy(pod)
    operations.apply(given(""), pod.path)
    pod.ip(f"rule add pref 100 {rule}")
    assert why(pod, packet(BrokenPod("", goes="in"), pod_pair)).causes == ()
    assert peer.client().connect(pod.ipv4, APP_PORT, timeout=1).label == "proxy"
    assert rule.startswith("uidrange") or why(pod).causes == ()


def test_a_fault_of_the_pod_that_stops_no_such_connection_is_a_note(pod_pair: PodPair) -> None:
    pod, peer = pod_pair
    peer.own_every_address()
    one_proxy(pod)
    with pod.entered():
        operations.apply(given("-c net7"))
    outbound, inbound = (packet(BrokenPod("", goes=goes), pod_pair) for goes in ("out", "in"))
    for sent in (None, outbound, inbound):
        found = why(pod, sent)
        assert (found.verdict, [note.kind for note in found.notes]) == ("captured", ["interface-missing"]), sent
    assert "interface-missing" in [cause.kind for cause in why(pod, inbound.replace(in_interface="net7")).causes]

    pod.ip("link set lo down")

    found = why(pod, inbound)
    assert (found.verdict, [note.kind for note in found.notes]) == ("captured", ["lo-down", "interface-missing"])
    assert reached(BrokenPod("", goes="in"), pod_pair) == "proxy"
    assert [cause.kind for cause in why(pod, outbound.replace(uid=1337, gid=1337)).causes] == ["proxy-user"]
    with pod.entered():
        operations.clean()
    assert [cause.kind for cause in why(pod, outbound).causes] == ["no-rules"]


def test_a_foreign_rule_and_a_missing_one_are_causes_of_their_own_for_every_verb(pod_pair: PodPair) -> None:
    pod, _ = pod_pair
    operations.apply(given("--backend iptables"), pod.path)
    pod.run(["sh", "-ec", "iptables -t nat -F OUTPUT; iptables -t nat -A OUTPUT -p tcp --dport 80 -j ACCEPT"])

    found = why(pod, packet(BrokenPod(""), pod_pair))
    with pod.entered():
        verified = operations.verify()

    assert [(each.kind, str(each.where)) for each in found.causes] == [
        ("foreign-rule", "IPv4 nat OUTPUT, rule 1"),
        ("rule-missing", "IPv4 nat OUTPUT, rule 1"),
    ]
    of_ipv4 = [each for each in verified.differences if each.family == "ipv4"]
    assert {each.kind: each.effect and each.effect.regions[0].startswith("tcp, port 80,") for each in of_ipv4} == {
        "missing": False,
        "foreign": True,
    }
    assert not verified.harmless_differences


def test_foreign_rules_are_named_by_family_and_chain_the_heaviest_first(pod_pair: PodPair) -> None:
    pod, peer = pod_pair
    one_proxy(pod)
    pod.listener(("::", APP_PORT), label="app", uid=1000)
    operations.apply(given("--backend iptables"), pod.path)
    for command in (
        "ip6tables-nft -t nat -I PREROUTING -p tcp -j ACCEPT",
        "iptables-nft -t nat -I PREROUTING -p tcp --dport 9999 -j ACCEPT",
        "iptables-nft -t nat -I OUTPUT -p tcp --dport 443 -j ACCEPT",
        "iptables-nft -t nat -I OUTPUT -p udp --dport 443 -j ACCEPT",
        "iptables-nft -t nat -I OUTPUT -p tcp --dport 80 -j ACCEPT",
        "iptables-nft -t nat -I OUTPUT -p tcp --dport 8080 -j REDIRECT --to-ports 8081",
    ):
        pod.run(command.split())

    assert peer.client().connect(pod.ipv6, APP_PORT).label == "app"
    found = {(each.kind, str(each.where)): each.message.partition("traffic")[2] for each in why(pod).causes}
    assert found == {
        ("foreign-rule", "IPv4 nat PREROUTING, rule 1"): ": -p tcp -m tcp --dport 9999 -j ACCEPT",
        ("foreign-rule", "IPv6 nat PREROUTING, rule 1"): ": -p tcp -j ACCEPT",
        ("foreign-rule", "IPv4 nat OUTPUT, rule 2"): (
            ": -p tcp -m tcp --dport 80 -j ACCEPT, and 1 more rule of this chain"
        ),
        ("nat-first", "IPv4 nat OUTPUT, rule 1"): (
            ", to another address or port: -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 8081"
        ),
    }
    assert_the_connections_agree(pod_pair, of_pod=assert_the_verbs_agree(pod))


def test_a_filter_of_neighbour_discovery_is_no_cause_while_neighbours_are_known(pod_pair: PodPair) -> None:
    pod, peer = pod_pair
    one_proxy(pod)
    with pod.entered():
        operations.apply(given(""))
    assert peer.client().connect(pod.ipv6, APP_PORT).label == "proxy"
    pod.run(["ip6tables", "-A", "INPUT", "-p", "icmpv6", "-j", "DROP"])

    assert why(pod).verdict == "captured"
    assert f": {STOPS_DISCOVERY}: -p ipv6-icmp -j DROP" in run_program(pod, "capture", "verify").stdout
    assert peer.client().connect(pod.ipv6, APP_PORT).label == "proxy"

    pod.run(["ip", "-6", "neigh", "flush", "dev", "eth0"])
    assert [cause.kind for cause in why(pod).causes] == ["filtered"]


def test_a_line_of_explain_names_the_rule_that_counts_its_connections(pod_pair: PodPair) -> None:
    """Everything goes out, for four reasons: by a foreign rule, by two of the capture, and for want of a redirect."""
    pod, peer = pod_pair
    peer.own_every_address()
    peer.listener(("0.0.0.0", 80), ("0.0.0.0", 81), label="world")
    operations.apply(given("--backend iptables"), pod.path)
    pod.run(["sh", "-ec", "iptables -t nat -F ISTIO-REDIRECT; iptables -t nat -I OUTPUT -p tcp --dport 80 -j ACCEPT"])
    lines = {
        each.traffic.removesuffix(", leaving the pod"): each.why
        for each in explained(pod)
        if each.direction == "outbound" and "ipv4" in each.families and "lo" not in each.traffic
    }
    proxy, accepts = "the proxy itself goes out; anything else would be a loop", "-p tcp -m tcp --dport 80 -j ACCEPT"
    assert lines == {
        "tcp, port 80": f"nat OUTPUT 1: {accepts}",
        "tcp, port other than 80, user 1337": proxy,
        "tcp, port other than 80, user other than 1337, group 1337": proxy,
        "tcp, port other than 80, user other than 1337, group other than 1337": "no rule decides",
        "udp": "no rule decides",
    }
    for uid, gid, port, decides in (
        (1000, 1000, 80, accepts),
        (1337, 1337, 80, accepts),
        (1337, 1000, 81, "-m owner --uid-owner 1337 -j RETURN"),
        (1000, 1337, 81, "-m owner --gid-owner 1337 -j RETURN"),
        (1000, 1000, 81, None),
    ):
        before = counted(pod)
        assert pod.client(uid=uid, gid=gid).connect(ELSEWHERE, port, timeout=1).label == "world"
        assert [rule for rule, packets in counted(pod).items() if packets > before[rule]] == [decides] * bool(decides)


def counted(pod: Pod) -> dict[str, int]:
    """Return how many packets each rule of nat has let pass."""
    found = {}
    for line in pod.run(["iptables-save", "-c", "-t", "nat"]).stdout.splitlines():
        counters, _, rule = line.partition(" -A ")
        if rule.endswith((" RETURN", " ACCEPT")):
            found[rule.partition(" ")[2]] = int(counters[1:].partition(":")[0])
    return found


def test_a_link_without_its_other_end_is_a_cause(pod_pair: PodPair) -> None:
    pod, peer = pod_pair
    pod.listener(*[(each, port) for each in ("0.0.0.0", "::") for port in (15001, 15006)], label="proxy", uid=1337)
    operations.apply(given(""), pod.path)
    assert why(pod).causes == ()

    peer.ip("link set eth0 down")

    assert peer.client().connect(pod.ipv4, APP_PORT, timeout=0.1).label == ""
    for sent in (None, *(packet(BrokenPod("", goes=goes), pod_pair) for goes in ("out", "in"))):
        (cause,) = why(pod, sent).causes
        assert (cause.kind, cause.where) == ("interface-down", "eth0")
        assert "the other end of the interface eth0 is down or gone" in cause.message


def test_a_chain_without_rules_is_shown_as_one(pod_pair: PodPair) -> None:
    pod, _ = pod_pair
    operations.apply(given("--backend nftables"), pod.path)
    pod.run(shlex.split(f"{NATIVE % 'flush chain'} ISTIO-OUTPUT"))

    message = why(pod).causes[-1].message
    assert "; missing: all rules of ISTIO-OUTPUT, so that outbound connections bypass the proxy, and 9 more" in message

    operations.apply(given("--backend iptables"), pod.path)
    for change, does in (("-E ISTIO-OUTPUT X", "which other rules make up for, and"), ("-F OUTPUT", "so that")):
        pod.run(shlex.split(f"iptables -t nat {change}"))
        assert f"; missing: -p tcp -j ISTIO-OUTPUT, {does}" in why(pod).causes[-1].message


def test_other_rules_make_up_for_one_if_they_do_so_for_all_its_packets(pod_pair: PodPair) -> None:
    """The port of the witness is one that a foreign rule accepts; at all others the connection comes back in."""
    pod, _ = pod_pair
    one_proxy(pod)
    operations.apply(given("--backend iptables"), pod.path)
    for change in ("-I OUTPUT -p tcp --dport 80 -j ACCEPT", "-D ISTIO-OUTPUT 3"):
        pod.run(shlex.split(f"iptables -t nat {change}"))

    sent = Packet("tcp", parse_address(pod.ipv4), 81, uid=1000, gid=1337)
    assert operations.trace(sent, namespace=pod.path).outcome == "proxy-inbound"
    (message,) = (each.message for each in why(pod).causes if "missing:" in each.message)
    assert "missing: -o lo -m owner ! --uid-owner 1337 -j RETURN, so that" in message
    assert "make up for" not in message


def test_one_diagnosis_is_of_one_state_of_the_kernel(pod_pair: PodPair, monkeypatch: pytest.MonkeyPatch) -> None:
    pod, _ = pod_pair
    one_proxy(pod)
    operations.apply(given(""), pod.path)
    readings: list[Ruleset] = []

    def counted(ruleset: Ruleset, *more: Any) -> Situation:
        readings.append(ruleset)
        return read_situation(ruleset, *more)

    monkeypatch.setattr(tracing, "read_situation", counted)

    for sent in (packet(BrokenPod(""), pod_pair), packet(BrokenPod("", goes="in"), pod_pair), None):
        assert why(pod, sent).causes == ()
        assert len(readings) == 1
        readings.clear()


def test_a_pod_whose_ipsec_policies_cannot_be_read_is_not_called_captured(
    pod_pair: PodPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod, _ = pod_pair
    one_proxy(pod)
    operations.apply(given(""), pod.path)
    monkeypatch.setattr(ipsec, "NETLINK_SOCKETS", "/proc/none")

    for sent in (None, packet(BrokenPod(""), pod_pair)):
        found = why(pod, sent)
        assert (found.verdict, found.causes, found.notes[-1].kind) == ("cannot be told", (), "unjudged")


def test_doctor_names_ipsec_policies_also_where_nothing_is_applied(pod_pair: PodPair) -> None:
    pod, _ = pod_pair
    pod.ip(
        "xfrm policy add dir out src 10.0.0.0/8 dst 192.0.2.0/24 action block",
        "xfrm policy add dir out src 10.0.0.0/8 dst 198.51.100.0/24 tmpl proto esp mode transport",
        "xfrm policy add dir out src 10.0.0.0/8 dst 203.0.113.0/24",
    )
    with pod.entered():
        found = {each.state: each.message for each in examine() if each.name == "IPsec"}
    packets = "packets, whatever the rules are: 1, such as `src 10.0.0.0/8 dst"
    assert found == {
        "warning": f"policies that drop {packets} 192.0.2.0/24 dir out`",
        "note": f"policies that encrypt {packets} 198.51.100.0/24 dir out`",
    }


def test_the_agent_leaves_a_pod_alone_whose_settings_capture_nothing(pod_pair: PodPair) -> None:
    nothing = given("-b '' -i ''")
    operations.apply(nothing, pod_pair.pod.path)

    assert examination.diagnose(pod_pair.pod.path, nothing, is_starting=False).name == "left-alone"


@pytest.mark.parametrize(
    ("options", "port", "but", "notes"),
    [
        (
            "-b 80 -d 80 -i ''",
            15006,
            "; by its settings, nothing outbound is captured",
            ["nothing outbound is captured, because of -i ''", "restrict the capture: -b 80, -d 80"],
        ),
        (
            "-b '' -x 0.0.0.0/0",
            15001,
            "; by its settings, no outbound IPv4 and nothing inbound is captured",
            ["no outbound IPv4 is captured, because of -x 0.0.0.0/0", "nothing inbound is captured, because of -b ''"],
        ),
        (
            "-o 1-65535 -p 15006",
            15006,
            "; by its settings, nothing outbound is captured",
            ["nothing outbound is captured, because of -o 1-65535"],
        ),
        (
            "-b '' -i 10.96.0.0/12",
            15001,
            "; by its settings, no outbound IPv6 and nothing inbound is captured",
            [
                "no outbound IPv6 is captured, because of -i 10.96.0.0/12",
                "nothing inbound",
                "restrict the capture: -i 10.96.0.0/12",
            ],
        ),
        (
            "-b '' --ip-families ipv4",
            15001,
            "; by its settings, nothing inbound and no IPv6 is captured",
            ["IPv6 is not captured", "nothing inbound is captured, because of -b ''"],
        ),
        ("-o 1 -z 15001", 15001, "", ["to one port, 15001", "restrict the capture: -o 1"]),
    ],
)
def test_each_option_that_captures_less_is_noted_once(
    pod_pair: PodPair, options: str, port: int, but: str, notes: list[str]
) -> None:
    pod, _ = pod_pair
    pod.listener(*[(address, port) for address in ("0.0.0.0", "::")], label="proxy", uid=1337)
    with pod.entered():
        operations.apply(given(options))

    found = why(pod)

    assert (found.verdict, found.causes) == ("captured", ())
    headline = f"captured: this pod{but}" if but else "captured: nothing is wrong with this pod"
    assert next(diagnosis_lines(found)) == headline
    flags = {each.name: f"-{each.short}" for each in option.OPTIONS}
    texts = [note.message.replace(" (test)", "") for note in found.notes]
    for name, flag in flags.items():
        texts = [text.replace(f"{name} ", f"{flag} ") for text in texts]
    assert len(texts) == len(notes), texts
    assert all(map(str.__contains__, texts, notes)), texts
    assert_the_connections_agree(pod_pair, of_pod=assert_the_verbs_agree(pod))


def test_a_resolv_conf_with_other_servers_is_a_note(pod_pair: PodPair, tmp_path: Path) -> None:
    pod, peer = pod_pair
    peer.own_every_address()
    peer.listener((ELSEWHERE, 53), label="world")
    one_proxy(pod)
    pod.listener(("127.0.0.1", 15053), label="proxy", uid=1337)
    operations.apply(given("--redirect-dns"), pod.path, PodFromInside(servers=(parse_address("203.0.113.1"),)))
    (tmp_path / "resolv.conf").write_text(f"nameserver {ELSEWHERE}\n")
    own_files = f"mount --bind {tmp_path}/resolv.conf /etc/resolv.conf; touch {tmp_path}/ready; exec sleep 60"
    process = pod.popen(["unshare", "--mount", "sh", "-ec", own_files])
    wait_until((tmp_path / "ready").exists)

    found = diagnosis.why(namespace=f"/proc/{process.pid}/ns/net")

    assert found.causes == ()
    assert [note.kind for note in found.notes] == ["dns-not-captured"]
    assert f"names {ELSEWHERE}, and DNS is captured for 203.0.113.1 alone" in found.notes[0].message
    assert reached(BrokenPod("", goes="dns"), pod_pair) == "world"
    assert diagnosis.why(namespace=pod.path).notes == ()


def test_a_resolv_conf_that_is_a_fifo_keeps_nothing_waiting(pod_pair: PodPair, tmp_path: Path) -> None:
    pod, _ = pod_pair
    one_proxy(pod)
    pod.listener(("127.0.0.1", 15053), label="proxy", uid=1337)
    operations.apply(given("--redirect-dns"), pod.path, PodFromInside(servers=(parse_address("203.0.113.1"),)))
    os.mkfifo(tmp_path / "fifo")
    own_files = f"mount --bind {tmp_path}/fifo /etc/resolv.conf; touch {tmp_path}/ready; exec sleep 60"
    process = pod.popen(["unshare", "--mount", "sh", "-ec", own_files])
    wait_until((tmp_path / "ready").exists)

    assert diagnosis.why(namespace=f"/proc/{process.pid}/ns/net").notes == ()


def test_another_source_of_what_leaves_the_pod_is_a_note(pod_pair: PodPair) -> None:
    pod, peer = pod_pair
    peer.own_every_address()
    peer.listener(("0.0.0.0", 80), label="world")
    one_proxy(pod)
    operations.apply(given(""), pod.path)
    assert pod.client(uid=1337, gid=1337).connect(ELSEWHERE, 80).label == "world"
    pod.run(["nft", "table ip t { chain p { type nat hook postrouting priority 99; oif eth0 snat to 10.88.99.9; }; }"])

    for sent in (None, packet(BrokenPod(""), pod_pair)):
        found = why(pod, sent)
        assert (found.causes, [note.kind for note in found.notes]) == ((), ["source-translated"])
        assert "snat to 10.88.99.9" in found.notes[0].message
    assert pod.client(uid=1337, gid=1337).connect(ELSEWHERE, 80, timeout=0.3).label == ""


def test_dns_without_a_known_name_server_is_not_told_to_redirect_dns(pod_pair: PodPair) -> None:
    pod, _ = pod_pair
    operations.apply(given(DNS.partition(" ")[0]), pod.path)

    found = why(pod, packet(BrokenPod("", goes="dns"), pod_pair))

    assert [cause.kind for cause in found.causes] == ["dns-not-captured"]
    assert "none was known" in found.causes[0].message
    assert found.causes[0].remedy.startswith("Run `capture apply --recorded --redirect-dns --capture")
    assert [note.kind for note in why(pod).notes] == ["dns-not-captured"]


def test_what_comes_in_as_outbound_is_no_circle(pod_pair: PodPair) -> None:
    pod, _ = pod_pair
    pod.listener(*[(address, 15001) for address in ("0.0.0.0", "::")], label="proxy", uid=1337)
    operations.apply(given("-k eth0"), pod.path)

    for sent in (None, packet(BrokenPod("", goes="in"), pod_pair)):
        found = why(pod, sent)
        assert (found.verdict, found.causes, found.notes) == ("captured", (), ())
    assert_the_verbs_agree(pod)


@pytest.mark.parametrize(
    ("options", "breaks", "cause", "note", "of_inbound"),
    [
        ("-m TPROXY", "ip rule del fwmark 1337", "route-missing", "", "route-missing"),
        ("--backend iptables", "iptables -t nat -D ISTIO-OUTPUT 1", "rule-missing", "", "rule-missing"),
        ("-b ''", "", "", "excluded", "unknown"),
        ("-d 8080", "", "", "", "excluded"),
        ("-k eth0 --backend iptables", "iptables -t nat -D PREROUTING 1", "", "excluded", "unknown"),
        (
            "--backend iptables",
            "iptables -t nat -D ISTIO-INBOUND -p tcp -j ISTIO-IN-REDIRECT",
            "",
            "no-record",
            "unknown",
        ),
        ("-c eth0", "", "excluded", "", "excluded"),
        ("--ip-families ipv4", "", "", "family-not-captured", ""),
        ("--backend nftables", f"{NATIVE % 'flush chain'} prerouting", "", "no-record", "unknown"),
        ("--backend iptables", "iptables -t nat -F", "rule-missing", "", "rule-missing"),
    ],
)
def test_without_a_record_the_live_rules_tell(
    pod_pair: PodPair, options: str, breaks: str, cause: str, note: str, of_inbound: str
) -> None:
    pod, _ = pod_pair
    one_proxy(pod, transparent="TPROXY" in options)
    with pod.entered():
        operations.apply(given(options))
        record.forget()
    pod.run(["sh", "-ec", breaks or ":"])

    found, inbound = why(pod), why(pod, packet(BrokenPod("", goes="in"), pod_pair))

    assert [each.kind for each in found.causes] == [cause] * bool(cause), found.causes
    assert [each.kind for each in found.notes] == ["no-record", *[note] * bool(note)], found.notes
    if of_inbound == "unknown":
        assert (inbound.verdict, inbound.causes, inbound.notes[0]) == ("cannot be told", (), uncaptured_cause())
    else:
        assert [each.kind for each in inbound.causes] == [of_inbound] * bool(of_inbound), inbound.causes
    assert not found.is_certain
    assert_the_connections_agree(pod_pair, of_pod=assert_the_verbs_agree(pod))


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


HARMLESS = (
    "iptables -A INPUT -i eth0 -p tcp --dport 9999 -j DROP; iptables -t raw -I OUTPUT -p udp --dport 123 -j NOTRACK;"
    " iptables -A OUTPUT ! -o wg0 -p udp --dport 51820 -j REJECT;"
    " iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"
)
"""Foreign rules that do nothing to captured connections."""

"""Leftovers of other programs and of our older versions in a pod: rules as those write them, and routes.

put(namespace, "upstream, iptables-nft")      by the tool of the name
"""

from dataclasses import dataclass

from pytest_netns import Namespace

# Upstream of today, as its program feeds it to iptables-restore; {loopback} and the like differ by family.
UPSTREAM = """\
*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_REDIRECT - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
-A PREROUTING -i eth9 -j RETURN
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -o eth9 -j RETURN
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15020 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -o lo -s {passthrough} -j RETURN
-A ISTIO_OUTPUT -o lo ! -d {loopback} -p tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d {loopback} -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
COMMIT
"""

UPSTREAM_TPROXY = """\
*mangle
:ISTIO_DIVERT - [0:0]
:ISTIO_TPROXY - [0:0]
:ISTIO_INBOUND - [0:0]
:ISTIO_DROP - [0:0]
-A PREROUTING -m conntrack --ctstate INVALID -j ISTIO_DROP
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A PREROUTING -p tcp -m mark --mark {mark} -j CONNMARK --save-mark
-A OUTPUT -p tcp -o lo -m mark --mark {mark} -j RETURN
-A OUTPUT ! -d {loopback} -p tcp -o lo -m owner --uid-owner 1337 -j MARK --set-mark 1338
-A OUTPUT ! -d {loopback} -p tcp -o lo -m owner --gid-owner 1337 -j MARK --set-mark 1338
-A OUTPUT -p tcp -m connmark --mark {mark} -j CONNMARK --restore-mark
-A ISTIO_DROP -j DROP
-A ISTIO_DIVERT -j MARK --set-mark {mark}
-A ISTIO_DIVERT -j ACCEPT
-A ISTIO_TPROXY ! -d {loopback} -p tcp -j TPROXY --tproxy-mark {mark}/0xffffffff --on-port 15006
-A ISTIO_INBOUND -p tcp -m mark --mark {mark} -j RETURN
-A ISTIO_INBOUND -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT
-A ISTIO_INBOUND -p tcp -j ISTIO_TPROXY
COMMIT
*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
COMMIT
"""

# Upstream of some years ago: no chains for DNS, its rules are in the built-in ones.
UPSTREAM_OLD_DNS = """\
*raw
-A OUTPUT -p udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1
-A OUTPUT -p udp --sport 15053 -m owner --uid-owner 1337 -j CT --zone 2
-A OUTPUT -p udp --dport 53 -j CT --zone 2
-A PREROUTING -p udp --sport 53 -j CT --zone 1
COMMIT
*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_REDIRECT - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A OUTPUT -p udp --dport 53 -m owner --uid-owner 1337 -j RETURN
-A OUTPUT -p udp --dport 53 -j REDIRECT --to-port 15053
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-port 15001
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-port 15006
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
COMMIT
"""

OWN_DASHES = UPSTREAM.replace("ISTIO_IN_REDIRECT", "ISTIO-IN-REDIRECT").replace("ISTIO_", "ISTIO-")

UPSTREAM_NATIVE = """\
table inet istio-proxy-nat {
    chain prerouting { type nat hook prerouting priority -100; }
    chain output { type nat hook output priority -100; }
    chain istio-inbound { }
    chain istio-redirect { }
    chain istio-in-redirect { }
    chain istio-output { }
}
table inet istio-proxy-mangle {
    chain prerouting { type filter hook prerouting priority -150; }
    chain output { type filter hook output priority -150; }
    chain istio-divert { }
    chain istio-tproxy { }
    chain istio-inbound { }
    chain ISTIO_DROP { }
}
add rule inet istio-proxy-nat output jump istio-output
add rule inet istio-proxy-nat istio-redirect meta l4proto tcp counter redirect to :15001
add rule inet istio-proxy-nat istio-in-redirect meta l4proto tcp counter redirect to :15006
add rule inet istio-proxy-nat istio-output oifname lo ip saddr 127.0.0.6/32 return
add rule inet istio-proxy-nat istio-output skuid 1337 counter return
add rule inet istio-proxy-nat istio-output jump istio-redirect
add rule inet istio-proxy-mangle ISTIO_DROP drop
add rule inet istio-proxy-mangle prerouting meta l4proto tcp ct state invalid jump ISTIO_DROP
add rule inet istio-proxy-mangle prerouting meta l4proto tcp jump istio-inbound
add rule inet istio-proxy-mangle prerouting meta l4proto tcp mark 1337 ct mark set mark
add rule inet istio-proxy-mangle istio-divert meta mark set 1337
add rule inet istio-proxy-mangle istio-divert accept
add rule inet istio-proxy-mangle istio-tproxy meta l4proto tcp ip daddr != 127.0.0.1/32 \
    tproxy ip to :15006 meta mark set 1337 accept
add rule inet istio-proxy-mangle istio-tproxy meta l4proto tcp ip6 daddr != ::1/128 \
    tproxy ip6 to :15006 meta mark set 1337 accept
add rule inet istio-proxy-mangle istio-inbound meta l4proto tcp mark 1337 return
add rule inet istio-proxy-mangle istio-inbound meta l4proto tcp ct state related,established jump istio-divert
add rule inet istio-proxy-mangle istio-inbound meta l4proto tcp jump istio-tproxy
add rule inet istio-proxy-mangle output meta l4proto tcp ct mark 1337 meta mark set ct mark
"""

# An older version of the capture, with chains, a set and a map that this one does not have.
OWN_NATIVE_OLDER = """\
table inet istio-proxy-nat {
    set excluded { type ipv4_addr; flags interval; elements = { 198.51.100.0/24 } }
    map ports { type inet_service : verdict; elements = { 80 : jump ISTIO-OLDER, 81 : return } }
    chain prerouting { type nat hook prerouting priority -101; }
    chain output { type nat hook output priority -100; }
    chain ISTIO-OUTPUT { }
    chain ISTIO-OLDER { }
}
table inet istio-proxy-raw {
    chain output { type filter hook output priority -300; }
}
add rule inet istio-proxy-nat output meta l4proto tcp jump ISTIO-OUTPUT
add rule inet istio-proxy-nat ISTIO-OUTPUT skuid 1337 return
add rule inet istio-proxy-nat ISTIO-OUTPUT ip daddr @excluded return
add rule inet istio-proxy-nat ISTIO-OUTPUT tcp dport vmap @ports
add rule inet istio-proxy-nat ISTIO-OLDER meta l4proto tcp redirect to :15001
add rule inet istio-proxy-nat prerouting tcp dport 81 redirect to :15006
add rule inet istio-proxy-raw output udp dport 53 ct zone set 2
"""

FAMILIES = {
    "iptables": {"loopback": "127.0.0.1/32", "passthrough": "127.0.0.6/32"},
    "ip6tables": {"loopback": "::1/128", "passthrough": "::6/128"},
}


@dataclass(frozen=True)
class Leftover:
    """Rules in the words of a tool, and whether routes and an address belong to them."""

    tool: str
    rules: str
    mark: int = 0
    table: int = 0
    passthrough: bool = False


LEFTOVERS = {
    "upstream, iptables-nft": Leftover("nft", UPSTREAM, passthrough=True),
    "upstream, iptables-legacy": Leftover("legacy", UPSTREAM, passthrough=True),
    "upstream TPROXY, iptables-nft": Leftover("nft", UPSTREAM_TPROXY, 1337, 133, passthrough=True),
    "upstream TPROXY, iptables-legacy": Leftover("legacy", UPSTREAM_TPROXY, 1337, 133),
    "upstream TPROXY by other numbers, iptables-nft": Leftover("nft", UPSTREAM_TPROXY, 99, 199),
    "upstream before chains for DNS, iptables-nft": Leftover("nft", UPSTREAM_OLD_DNS),
    "upstream before chains for DNS, iptables-legacy": Leftover("legacy", UPSTREAM_OLD_DNS),
    "upstream, nftables": Leftover("native", UPSTREAM_NATIVE, 1337, 133, passthrough=True),
    "capture, iptables-nft": Leftover("nft", OWN_DASHES, passthrough=True),
    "capture, iptables-legacy": Leftover("legacy", OWN_DASHES, passthrough=True),
    "capture of an older version, nftables": Leftover("native", OWN_NATIVE_OLDER, passthrough=True),
}


def put_leftover(namespace: Namespace, name: str) -> None:
    """Put a leftover into a namespace."""
    left = LEFTOVERS[name]
    if left.tool == "native":
        namespace.run(["nft", "-f", "-"], stdin=left.rules)
    else:
        for program, words in FAMILIES.items():
            text = left.rules.format(mark=left.mark, **words)
            namespace.run([f"{program}-{left.tool}-restore", "--noflush", "--wait"], stdin=text)
    if left.mark:
        for family in ("-4", "-6"):
            namespace.run(["ip", family, "rule", "add", "fwmark", str(left.mark), "lookup", str(left.table)])
            namespace.run(["ip", family, "route", "add", "local", "default", "dev", "lo", "table", str(left.table)])
    if left.passthrough:
        namespace.ip("address replace ::6/128 dev lo nodad")

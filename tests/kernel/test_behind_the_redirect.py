"""What meets a connection after our rules have sent it to the proxy: in the kernel's order, shown by traffic."""

from __future__ import annotations

import pytest

from capture import operations
from pytest_netns import PodPair
from support.captures.settings import WAYS, settings

pytestmark = pytest.mark.kernel

ELSEWHERE = "203.0.113.7"
TO_POD = "iptables-nft -t nat -I OUTPUT -p tcp --dport 80 -j DNAT --to-destination {pod}:8080"
NFT = "nft add table ip x; nft add chain ip x c '{{ type filter hook %s; }}'; nft add rule ip x c %s"

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
    "in by index": (NFT % ("input priority 0", "iif lo tcp dport 15001 drop"), "dropped"),
    "in by another index": (NFT % ("input priority 0", "iif eth0 tcp dport 15001 drop"), "proxy"),
    "in by no index": (NFT % ("output priority -200", "iif != lo tcp dport 80 drop"), "dropped"),
    "out by index": (NFT % ("output priority 0", "oif eth0 tcp dport 15001 drop"), "dropped"),
    "the source is mapped at input": (
        "iptables-nft -t nat -A INPUT -p tcp --dport 15001 -j SNAT --to-source 192.0.2.1",
        "proxy",
    ),
    "masqueraded": ("iptables-nft -t nat -A POSTROUTING -o eth0 -j MASQUERADE", "proxy"),
}
OUTCOMES = {"proxy": "proxy-outbound", "app": "direct", "dropped": "dropped"}


@pytest.fixture
def served(pod_pair: PodPair) -> PodPair:
    pod, peer = pod_pair
    peer.own_every_address()
    pod.listener(("0.0.0.0", 15001), label="proxy", uid=1337)
    pod.listener(("0.0.0.0", 8080), label="app", uid=1000)
    return pod_pair


@pytest.mark.parametrize("way", ["nftables-netlink", "iptables-netlink"])
@pytest.mark.parametrize("name", CASES)
def test_as_the_kernel_does_it(served: PodPair, way: str, name: str) -> None:
    commands, expected = CASES[name]
    pod = served.pod
    with pod.entered():
        operations.apply(settings(WAYS[way]))
        pod.run(["sh", "-ec", commands.format(pod=pod.ipv4)])

        assert operations.trace_packet(ELSEWHERE, 80).outcome == OUTCOMES[expected]
        assert operations.verify().holds == (expected == "proxy")
    patience = 0.1 if expected == "dropped" else 5
    assert (pod.client(1000).connect(ELSEWHERE, 80, timeout=patience).label or "dropped") == expected


LOCAL_TRAFFIC = {
    "docker": "iptables-nft -t nat -N D;"
    " iptables-nft -t nat -I OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j D;"
    " iptables-nft -t nat -A D -p tcp --dport 80 -j DNAT --to-destination {pod}:8080",
    "kube-proxy": "nft 'table ip k {{ chain c {{ type nat hook output priority -110;"
    " fib daddr type local tcp dport 80 dnat to {pod}:8080; }}; }}'",
}


@pytest.mark.parametrize("writer", LOCAL_TRAFFIC)
def test_ports_of_a_node_are_judged(served: PodPair, writer: str) -> None:
    """What Docker and kube-proxy write for ports that are published takes traffic to the pod's own addresses alone."""
    pod = served.pod
    with pod.entered():
        operations.apply(settings())
        pod.run(["sh", "-ec", LOCAL_TRAFFIC[writer].format(pod=pod.ipv4)])

        for address, expected in ((ELSEWHERE, "proxy"), (pod.ipv4, "app")):
            traced = operations.trace_packet(address, 80)
            assert (traced.outcome, traced.certain) == (OUTCOMES[expected], True)
            assert pod.client(1000).connect(address, 80, timeout=5).label == expected
        verified = operations.verify()
    assert not verified.holds  # the proxy's own calls to its pod, which are captured
    assert verified.is_certain, str(verified)

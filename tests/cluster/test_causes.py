"""``kubectl capture why POD tcp ...`` names the cause in each broken situation, made in real pods with real Envoys."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from support.cluster.agent import InPod, expect_state, first_object
from support.cluster.calls import address
from support.cluster.installed import Cluster
from support.cluster.pods import pod

TRAFFIC = "traffic.sidecar.istio.io"
WORLD = {"ipv4": "203.0.113.9", "ipv6": "[2001:db8::9]"}
OUT = ("tcp", "{world}:80", "--uid", "1000")
IN = ("tcp", "{pod}:8080", "--in", "eth0", "--src", "{peer}")


class BrokenPod(NamedTuple):
    """A pod, what breaks it and repairs it again (lines for ``sh`` in its namespace), a connection, and the cause."""

    kind: str
    pod: str
    connection: tuple[str, ...] = OUT
    breaks: str = ":"
    mends: str = ":"


IPTABLES = "{iptables}-nft -t nat"
BROKEN_PODS = {
    "a chain of ours is empty": BrokenPod(
        "rule-missing", "flushed", breaks=f"{IPTABLES} -F ISTIO_OUTPUT"
    ),
    "our jump is gone": BrokenPod("rule-missing", "unhooked", breaks=f"{IPTABLES} -F OUTPUT"),
    "no rule is left": BrokenPod("no-rules", "bare", breaks="nft flush ruleset"),
    "a foreign rule accepts before ours": BrokenPod(
        "foreign-rule", "client", breaks=f"{IPTABLES} -I OUTPUT -p tcp --dport 80 -j ACCEPT",
        mends=f"{IPTABLES} -D OUTPUT 1",
    ),
    "a foreign rule translates before ours": BrokenPod(
        "nat-first", "client", breaks=f"{IPTABLES} -I OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports 9999",
        mends=f"{IPTABLES} -D OUTPUT 1",
    ),
    "a second set sends elsewhere": BrokenPod(
        "second-set", "client", (),
        breaks="nft 'add table inet istio-proxy-nat; add chain inet istio-proxy-nat istio-output; "
        "add rule inet istio-proxy-nat istio-output meta l4proto tcp redirect to :16001; "
        "add chain inet istio-proxy-nat output {{ type nat hook output priority -101; }}; "
        "add rule inet istio-proxy-nat output jump istio-output'",
        mends="nft delete table inet istio-proxy-nat",
    ),
    "the proxy's port is dropped": BrokenPod(
        "filtered", "client", breaks="{iptables}-nft -A INPUT -p tcp --dport 15001 -j DROP",
        mends="{iptables}-nft -F INPUT",
    ),
    "the proxy's port is rejected": BrokenPod(
        "filtered", "client", breaks="{iptables}-nft -A OUTPUT -p tcp --dport 15001 -j REJECT",
        mends="{iptables}-nft -F OUTPUT",
    ),
    "no route": BrokenPod(
        "no-route", "client", breaks="ip {family} route del default", mends="ip {family} route add default {via}",
    ),
    "lo is down": BrokenPod("lo-down", "loopless", breaks="ip link set lo down"),
    "an excluded port": BrokenPod("excluded", "skipport"),
    "an excluded network": BrokenPod("excluded", "skipnet"),
    "an interface that does not exist": BrokenPod(
        "interface-missing", "misspelt", ("tcp", "{pod}:8080", "--in", "net7")
    ),
    "the proxy's own connection": BrokenPod("proxy-user", "client", ("tcp", "{world}:80", "--uid", "1337")),
    "DNS that is not captured": BrokenPod("dns-not-captured", "client", ("udp", "{world}:53", "--uid", "1000")),
    "UDP": BrokenPod("not-tcp", "client", ("udp", "{world}:4433", "--uid", "1000")),
    "no process listens": BrokenPod("not-listening", "silent"),
    "a proxy of another user": BrokenPod("proxy-wrong-user", "stranger"),
    "a proxy that is not transparent": BrokenPod("proxy-mode", "opaque", IN),
    "the route of TPROXY is gone": BrokenPod(
        "route-missing", "transparent", (), breaks="ip {family} route flush table 133",
        mends="ip {family} route add local default dev lo table 133",
    ),
    "another policy route comes first": BrokenPod(
        "policy-route", "transparent", (),
        breaks="ip {family} rule add pref 0 from all lookup 100; ip {family} route add default dev eth0 table 100;"
        " ip {family} rule del pref 0 lookup 133; ip {family} rule add pref 1 fwmark 1337 lookup 133",
        mends="ip {family} rule del pref 0 lookup 100; ip {family} rule del lookup 133;"
        " ip {family} rule add pref 0 fwmark 1337 lookup 133; ip {family} route flush table 100",
    ),
    "a switch drops what is marked": BrokenPod(
        "sysctl", "transparent", IN, breaks="sysctl -w net.ipv4.tcp_fwmark_accept=1",
        mends="sysctl -w net.ipv4.tcp_fwmark_accept=0",
    ),
    "a pod that was left alone": BrokenPod("left-alone", "optedout"),
    "a family that is not captured": BrokenPod(
        "family-not-captured", "ipv4only", ("tcp", "[2001:db8::9]:80", "--uid", "1000"),
    ),
}  # fmt: skip

PODS: dict[str, dict[str, Any]] = {
    "client": {}, "transparent": {"transparent": True},
    "skipport": {"annotations": {f"{TRAFFIC}/excludeOutboundPorts": "80"}},
    "skipnet": {"annotations": {f"{TRAFFIC}/excludeOutboundIPRanges": "203.0.113.0/24,2001:db8::/32"}},
    "optedout": {"labels": {"sidecar.istio.io/inject": "false"}},
}  # fmt: skip
PAUSED_PODS: dict[str, dict[str, Any]] = {
    "flushed": {}, "unhooked": {}, "bare": {}, "loopless": {}, "silent": {}, "stranger": {},
    "misspelt": {"annotations": {f"{TRAFFIC}/excludeInterfaces": "net7"}},
    "opaque": {"annotations": {"sidecar.istio.io/interceptionMode": "TPROXY"}},
}  # fmt: skip
LISTENERS = {"stranger": 2000, "opaque": 1337}
"""Pods whose proxy is a program of the node, and the user it runs as."""


@pytest.fixture(scope="module")
def broken(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with a pod for each situation."""
    made = [pod(name, **options) for name, options in PODS.items()]
    made += [pod(name, pause_proxy=True, command=["/pause", "-P"], **options) for name, options in PAUSED_PODS.items()]
    cluster.apply(*made)
    if has_both(cluster):
        cluster.install("cni.ipFamilies=mesh")  # of this mesh IPv4 alone, by the pod's primary address
        cluster.apply(pod("ipv4only", pause_proxy=True, command=["/pause", "-P"]))
        cluster.kubectl("wait", "pod", "ipv4only", "--for=condition=Ready", "--timeout=60s")
        cluster.install()
    cluster.kubectl("wait", "pod", *PODS, *PAUSED_PODS, "--for=condition=Ready", "--timeout=120s", timeout=140)
    expect_state(cluster, "client", "captured", 10)
    with contextlib.ExitStack() as listeners:
        for name, uid in LISTENERS.items():
            listeners.enter_context(InPod(cluster, name).proxy(uid))
        yield cluster
    cluster.kubectl("delete", "pod", "-l", "app", "--grace-period=1", "--wait")


def has_both(cluster: Cluster) -> bool:
    return len(cluster.families) == 2 and cluster.method == "chart"


def kinds(cluster: Cluster, name: str, connection: tuple[str, ...]) -> list[str]:
    """Return the causes that ``kubectl capture why`` names."""
    printed = cluster.kubectl_capture("why", name, *connection, "--format", "json")
    answer = first_object(printed)
    return [cause["kind"] for cause in answer["causes"]] if "causes" in answer else [printed]


def test_why_names_the_cause_of_each_broken_pod(broken: Cluster) -> None:
    """`kubectl capture why POD tcp ...` names the cause in each of two dozen situations, and none in a sound pod."""
    family = broken.families[0]
    words = {
        "world": WORLD[family], "iptables": "iptables" if family == "ipv4" else "ip6tables",
        "family": "-6" if family == "ipv6" else "-4", "peer": address(broken, "silent").strip("[]"),
    }  # fmt: skip
    wrong = {}
    for name, situation in BROKEN_PODS.items():
        if situation.pod == "ipv4only" and not has_both(broken):
            continue
        run = InPod(broken, situation.pod)
        default = run("ip", words["family"], "route", "show", "default").partition(" metric")[0].strip()
        of_pod = words | {"pod": address(broken, situation.pod), "via": default.removeprefix("default ")}
        connection = tuple(word.format(**of_pod) for word in situation.connection)
        run("sh", "-ec", situation.breaks.format(**of_pod))
        answer = kinds(broken, situation.pod, connection)
        run("sh", "-ec", situation.mends.format(**of_pod))
        if situation.kind not in answer:
            wrong[name] = answer
    sound = {
        name: kinds(broken, name, tuple(word.format(**words) for word in OUT)) for name in ("client", "transparent")
    }
    assert (wrong, sound) == ({}, {"client": [], "transparent": []})

"""The proxies of the demo, behind the smallest rules that capture: what they log and mark is what happened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from proxies import Flow, Proxy, get, start_app, start_haproxy, start_mitmdump
from pytest_netns import Endpoint, Pod, PodPair

pytestmark = pytest.mark.kernel

RULES = """
table inet capture {
    chain prerouting {
        type nat hook prerouting priority -100
        meta l4proto tcp redirect to :15006
    }
    chain output {
        type nat hook output priority -100
        meta skuid 1337 return
        oifname "lo" return
        meta l4proto tcp redirect to :15001
    }
}
"""


@pytest.mark.parametrize(
    ("start", "family"), [(start_mitmdump, "ipv4"), (start_mitmdump, "ipv6"), (start_haproxy, "ipv4")]
)
def test_a_proxy_takes_both_sides(
    pod_pair: PodPair, tmp_path: Path, start: Callable[[Pod, Path], Proxy], family: str
) -> None:
    pod, peer = pod_pair
    pod_address, peer_address = (pod.ipv4, peer.ipv4) if family == "ipv4" else (pod.ipv6, peer.ipv6)
    start_app(pod, 80)
    start_app(peer, 8080, label="elsewhere")
    proxy = start(pod, tmp_path)
    pod.add_address("::6/128", "lo")
    pod.run(["nft", "-f", "-"], stdin=RULES)

    out = get(pod.client(1000), peer_address, 8080)
    straight = get(pod.client(1337), peer_address, 8080)
    into = get(peer.client(1000), pod_address, 80)

    assert (out.label, out.passed) == ("elsewhere", ("outbound",))
    assert (straight.label, straight.passed) == ("elsewhere", ())
    assert (into.label, into.passed) == ("app", ("inbound",))
    assert [
        Flow(flow.side, Endpoint(flow.client.address, 0), flow.destination) for flow in proxy.flows(at_least=2)
    ] == [
        Flow("outbound", Endpoint(pod_address, 0), Endpoint(peer_address, 8080)),
        Flow("inbound", Endpoint(peer_address, 0), Endpoint(pod_address, 80)),
    ]


@pytest.mark.parametrize("start", [start_haproxy, start_mitmdump])
def test_a_proxy_goes_on_from_the_address_envoy_uses(
    pod_pair: PodPair, tmp_path: Path, start: Callable[[Pod, Path], Proxy]
) -> None:
    pod, peer = pod_pair
    start_app(pod, 80)
    start(pod, tmp_path)
    pod.run(["nft", "-f", "-"], stdin=RULES)

    assert get(peer.client(), pod.ipv4, 80).peer.address == "127.0.0.6"


def test_haproxy_passes_bytes_on_where_the_server_speaks_first(pod_pair: PodPair, tmp_path: Path) -> None:
    pod, peer = pod_pair
    peer.listener(("0.0.0.0", 25), label="mail server")
    proxy = start_haproxy(pod, tmp_path, mode="tcp")
    pod.run(["nft", "-f", "-"], stdin=RULES)

    assert pod.client(1000).connect(peer.ipv4, 25).label == "mail server"
    assert [flow.destination for flow in proxy.flows(at_least=1)] == [Endpoint(peer.ipv4, 25)]

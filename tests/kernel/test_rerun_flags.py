"""The flags of ``istio-init`` about where rules go, given to a pod one after the other."""

import pytest

from pytest_netns import Namespace, NamespaceFactory, PodPair
from support.processes.namespace_state import namespace_state
from support.processes.our_programs import run_program

PLACES = {
    "--native-nftables": "native",
    "--force-iptables-binary=nft": "nft",
    "--force-iptables-binary=legacy": "legacy",
    "--force-iptables-binary=iptables-nft": "nft",
    "--backend=nftables": "native",
    "--driver=libnftables": "native",
    "--driver=iptc": "legacy",
}


def istio_init(namespace: Namespace, *flags: str, code: int = 0) -> str:
    """Run it, check its exit code, and return its output."""
    done = run_program(namespace, "istio-init", *flags, code=code)
    return done.stdout + done.stderr


def places(namespace: Namespace) -> set[str]:
    """Return where our chains are, by the tools' own listings."""
    seen = namespace_state(namespace)
    found = {"native"} if "table inet istio-proxy-" in seen["nft"] else set()
    for variant in ("nft", "legacy"):
        for command in ("iptables", "ip6tables"):
            if ":ISTIO" in seen.get(f"{command}-{variant}-save", ""):
                found.add(variant)
    return found


def test_each_flag_moves_the_rules_to_its_place(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    for flag, place in (*PLACES.items(), ("--native-nftables", "native")):
        istio_init(pod, flag)
        assert places(pod) == {place}, flag
        assert "unchanged: " in istio_init(pod, flag)


@pytest.mark.parametrize("family", ["iptables", "ip6tables"])
def test_without_a_flag_rules_go_where_rules_are(netns: NamespaceFactory, family: str) -> None:
    pod = netns.pod()
    pod.run([f"{family}-legacy", "-t", "nat", "-A", "POSTROUTING", "-o", "eth7", "-j", "MASQUERADE"])
    istio_init(pod)
    assert places(pod) == {"legacy"}
    for _ in range(3):
        assert "unchanged: " in istio_init(pod)

    istio_init(pod, "--force-iptables-binary=nft")
    assert places(pod) == {"nft"}
    assert "unchanged: " in istio_init(pod), "the place of our rules counts more than that of foreign ones"


@pytest.mark.parametrize("live", ["", "--native-nftables", "--force-iptables-binary=legacy"])
def test_a_dry_run_changes_nothing(pod_pair: PodPair, live: str) -> None:
    pod = pod_pair.pod
    if live:
        istio_init(pod, live)
    before = namespace_state(pod)
    for flags in (["-m", "TPROXY", "--redirect-dns"], ["--native-nftables"], ["--cleanup-only"], ["--force-apply"]):
        assert istio_init(pod, "--dry-run", *flags)
    assert namespace_state(pod) == before


def test_flags_that_contradict_each_other_change_nothing(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    before = namespace_state(pod)
    for flags in (
        ["--native-nftables", "--force-iptables-binary=legacy"],
        ["--native-nftables", "--backend=iptables"],
        ["--driver=iptc", "--force-iptables-binary=nft"],
        ["--driver=restore", "--backend=nftables"],
    ):
        assert "invalid value" in istio_init(pod, *flags, code=2)
    assert namespace_state(pod) == before


def test_another_namespace_and_back(netns: NamespaceFactory) -> None:
    """A change there is a change there alone, however the rules are written."""
    here, there = netns.pod("here"), netns.pod("there")
    before = namespace_state(here)
    for flag in ("--native-nftables", "--force-iptables-binary=nft", "--force-iptables-binary=legacy"):
        istio_init(here, "--cni-mode", "--network-namespace", there.path, flag, "-m", "TPROXY")
        assert places(there) == {PLACES[flag]}
        assert "fwmark 0x539 lookup 133" in there.run(["ip", "-6", "rule"]).stdout
        assert namespace_state(here) == before
    istio_init(here, "--cleanup-only", "--network-namespace", there.path)
    assert places(there) == set()
    assert "fwmark" not in there.run(["ip", "-6", "rule"]).stdout

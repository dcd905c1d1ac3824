"""`capture doctor` changes nothing, and tells where rules are and which backend is taken."""

import json

from pytest_netns import NamespaceFactory
from support.captures.commands import state
from support.processes.our_programs import run_program as run


def test_doctor_changes_nothing_and_says_what_auto_picks(netns: NamespaceFactory) -> None:
    namespace = netns()
    before = state(namespace)

    report = json.loads(run(namespace, "capture", "doctor", "--format", "json").stdout)
    printed = run(namespace, "capture", "doctor").stdout

    assert state(namespace) == before
    assert report["works"] is True
    by_name = {finding["name"]: finding for finding in report["findings"]}
    assert by_name["backend"]["says"].startswith("auto takes iptables-nft with the driver ")
    assert by_name["identity"]["says"].endswith("not the host's own")
    assert "auto takes iptables-nft" in printed
    assert all(name in printed for name in by_name)  # a pipe gets them all
    assert {"nf_tables", "nft_compat and xt_owner", "legacy tables", "IPv6", "nft", "lock"} <= set(by_name)


def test_doctor_sees_our_rules_in_two_places(netns: NamespaceFactory) -> None:
    namespace = netns()
    run(namespace, "capture", "apply", "--backend", "nftables")
    rules = run(namespace, "capture", "render", "--backend", "iptables", "--family", "ipv4").stdout
    namespace.run(["iptables-restore", "--noflush"], stdin=rules)

    printed = run(namespace, "capture", "doctor", code=4).stdout

    assert "second-set" in printed
    assert "there are several rule sets of the capture; expected one" in printed
    assert "a second set of capture rules is in iptables-nft" in run(namespace, "capture", "verify", code=4).stdout

"""`capture render`: rules without a kernel, which its own programs take."""

import pytest

from pytest_netns import NamespaceFactory, PodPair
from support.captures.commands import PROGRAMS, state
from support.processes.our_programs import run_program as run


def test_render_needs_neither_privilege_nor_kernel(netns: NamespaceFactory) -> None:
    namespace = netns()
    before = state(namespace)

    rendered = namespace.run([PROGRAMS / "capture", "render"], uid=1000, reads_everything=True).stdout

    headings = [line for line in rendered.splitlines() if line.startswith("# ")]
    assert any("iptables" in heading for heading in headings)
    assert any("nft" in heading for heading in headings)
    assert state(namespace) == before


@pytest.mark.parametrize("profile", ["classic", "current"])
def test_rendered_rules_can_be_piped(netns: NamespaceFactory, profile: str) -> None:
    options = ["--profile", profile, "-m", "TPROXY", "--redirect-dns", "--capture-all-dns", "--drop-invalid"]
    namespace, iptables, native = netns(), netns(), netns()

    for family, restore in (("ipv4", "iptables-restore"), ("ipv6", "ip6tables-restore")):
        text = run(namespace, "capture", "render", "--backend", "iptables", "--family", family, *options).stdout
        iptables.run([restore, "--noflush"], stdin=text)
    native.run(["nft", "-f", "-"], stdin=run(namespace, "capture", "render", "--backend", "nftables", *options).stdout)

    run(namespace, "capture", "apply", "--backend", "iptables", *options)
    shown = run(namespace, "capture", "dump").stdout.partition("\n# in sync")[0]
    assert run(iptables, "capture", "dump").stdout.rstrip() == shown.rstrip()
    run(namespace, "capture", "apply", "--backend", "nftables", *options)
    shown = run(namespace, "capture", "dump").stdout.partition("\n# in sync")[0]
    assert run(native, "capture", "dump").stdout.rstrip() == shown.rstrip()


def test_render_takes_the_facts_of_a_pod(pod_pair: PodPair) -> None:
    pod_pair.pod.run(["ip", "-6", "address", "flush", "dev", "eth0"])
    words = ("capture", "render", "--ip-families", "mesh", "--backend", "iptables", "--format", "json")

    rendered = {here: run(pod_pair.pod, *words, *here).stdout for here in ((), ("--netns", "/proc/self/ns/net"))}

    assert [text.count("ISTIO-INBOUND - ") for text in rendered.values()] == [2, 1]

"""iptables by netlink is taken where the kernel has what it needs, and needs nothing else."""

from __future__ import annotations

import pytest

from capture.backends import load_driver
from capture.backends.detect import BackendChoice, choose, choose_without_kernel, live_sets_in
from capture.backends.host_facts import LiveChain
from capture.backends.iptables.netlink import IptablesNetlinkDriver
from capture.backends.request import BackendRequest
from capture.errors import ConfigurationError, UnsupportedError
from support.captures.hosts import WITH_EVERYTHING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.backends.host_facts import ProgramKey

KERNEL = WITH_EVERYTHING.replace(programs={}, has_python_iptables=False, has_libnftables=False)
BY_NETLINK = BackendChoice("iptables", "netlink", "nft")


@pytest.mark.parametrize("programs", [{}, WITH_EVERYTHING.programs], ids=["no programs", "all programs"])
@pytest.mark.parametrize(
    "request_",
    [
        BackendRequest(),
        BackendRequest("iptables"),
        BackendRequest("auto", "netlink"),
        BackendRequest("iptables", "netlink"),
        BackendRequest("auto", "", "nft"),
        BackendRequest("iptables", "netlink", "nft"),
    ],
    ids=str,
)
def test_netlink_is_taken_with_and_without_programs(programs: dict[ProgramKey, str], request_: BackendRequest) -> None:
    assert choose(KERNEL.replace(programs=programs), request_) == BY_NETLINK


def test_netlink_is_not_taken_without_compat() -> None:
    facts = KERNEL.replace(has_nft_compat=False, programs=WITH_EVERYTHING.programs)
    assert choose(facts, BackendRequest()) == BackendChoice("iptables", "restore", "legacy")
    assert choose(facts, BackendRequest("auto", "netlink")) == BackendChoice("nftables", "netlink", "")
    with pytest.raises(UnsupportedError, match=r"netlink \(iptables-nft\): nf_tables of this kernel takes no matches"):
        choose(facts, BackendRequest("iptables", "netlink"))


def test_our_rules_in_legacy_are_followed() -> None:
    chain = LiveChain("legacy", "ipv4", "nat", "ISTIO_OUTPUT", 1)
    facts = KERNEL.replace(programs=WITH_EVERYTHING.programs, chains=(chain,), legacy_tables=(("ipv4", "nat"),))
    assert choose(facts, BackendRequest()) == BackendChoice("iptables", "restore", "legacy")


def test_netlink_knows_no_legacy_tables() -> None:
    with pytest.raises(ConfigurationError, match="expected restore or iptc for iptables-legacy"):
        choose(KERNEL, BackendRequest("iptables", "netlink", "legacy"))


def test_render_takes_netlink_by_default() -> None:
    assert choose_without_kernel(BackendRequest()) == BY_NETLINK
    assert choose_without_kernel(BackendRequest("iptables", "", "legacy")) == BackendChoice(
        "iptables", "restore", "legacy"
    )


def test_netlink_removes_what_is_left_in_nf_tables() -> None:
    chain = LiveChain("nft", "ipv4", "nat", "ISTIO-OUTPUT", 1)
    (leftover,) = live_sets_in(KERNEL.replace(chains=(chain,)))
    assert leftover.choice == BY_NETLINK


def test_the_driver_netlink_is_loaded_by_name() -> None:
    assert isinstance(load_driver(BY_NETLINK), IptablesNetlinkDriver)

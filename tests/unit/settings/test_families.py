"""Which families are captured, why, and what the warnings say about the other one."""

import pytest

from capture.model.addresses import Family
from capture.settings.config import resolve
from capture.settings.families import choose_families, judge_families, link_local_note
from capture.settings.options import DUAL_STACK, IP_FAMILIES, OTHER_FAMILY
from support.captures.fake_pod import FakePod, Texts, explicit

BOTH: tuple[Family, ...] = ("ipv4", "ipv6")
IPV4: tuple[Family, ...] = ("ipv4",)
DUAL = ("10.0.0.5", "fd00::5", "fe80::5")
EKS_IPV6 = ("2001:db8::5", "169.254.172.2", "fe80::5")


def chosen(texts: Texts, *addresses: str) -> tuple[Family, ...]:
    return resolve(explicit(texts), FakePod(addresses=addresses))[0].families


@pytest.mark.parametrize("addresses", [DUAL, EKS_IPV6, ("10.0.0.5",), ("fd00::5",), ("fe80::5",), ()])
def test_both_families_are_the_default_with_any_addresses(addresses: tuple[str, ...]) -> None:
    assert chosen({}, *addresses) == BOTH
    assert chosen({IP_FAMILIES: "both", DUAL_STACK: "false"}, *addresses) == BOTH
    assert chosen({DUAL_STACK: "true"}, *addresses) == BOTH
    assert chosen({DUAL_STACK: "false"}, *addresses) == BOTH
    assert chosen({IP_FAMILIES: "ipv4", DUAL_STACK: "true"}, *addresses) == IPV4
    is_global = {address.startswith(("2001:", "fd")) for address in addresses}
    assert resolve(explicit({}), FakePod(addresses=addresses))[0].is_reached_by_ipv6 == (True in is_global)


@pytest.mark.parametrize(
    ("texts", "addresses", "families"),
    [
        ({}, DUAL, IPV4),
        ({}, ("fd00::5", "10.0.0.5"), BOTH),
        ({}, EKS_IPV6, BOTH),
        ({}, ("10.0.0.5",), IPV4),
        ({}, ("10.0.0.5", "fe80::5"), IPV4),
        ({}, (), BOTH),
        ({}, ("169.254.172.2", "fe80::5"), BOTH),
        ({DUAL_STACK: "true"}, DUAL, BOTH),
        ({DUAL_STACK: "true"}, ("10.0.0.5",), BOTH),
        ({DUAL_STACK: "false"}, DUAL, IPV4),
    ],
)
def test_mesh_is_upstream_s_way(texts: Texts, addresses: tuple[str, ...], families: tuple[Family, ...]) -> None:
    assert chosen({IP_FAMILIES: "mesh", **texts}, *addresses) == families


def test_mesh_where_the_proxy_s_environment_is_unknown() -> None:
    unknown = explicit({IP_FAMILIES: "mesh"}).replace(knows_proxy_environment=False)
    assert resolve(unknown, FakePod(addresses=DUAL))[0].families == BOTH
    assert resolve(unknown, FakePod(addresses=("10.0.0.5", "fe80::5")))[0].families == IPV4
    only_ipv4 = unknown.with_option(IP_FAMILIES, "ipv4", "command line")
    assert resolve(only_ipv4, FakePod(addresses=DUAL))[0].families == IPV4


@pytest.mark.parametrize(
    ("texts", "because"),
    [
        ({}, "both, default"),
        ({DUAL_STACK: "true"}, "--dual-stack, command line"),
        ({IP_FAMILIES: "ipv4"}, "ipv4, command line"),
        ({IP_FAMILIES: "mesh"}, "mesh, command line: the pod's primary address is IPv4"),
        ({IP_FAMILIES: "mesh", DUAL_STACK: "true"}, "mesh, command line: dual stack, command line"),
    ],
)
def test_the_reason_names_the_setting_and_where_it_comes_from(texts: Texts, because: str) -> None:
    assert choose_families(explicit(texts), FakePod(addresses=DUAL)).decided_by == because


@pytest.mark.parametrize(
    ("choice", "dual", "contradicts"),
    [("ipv4", "true", True), ("both", "false", True), ("mesh", "true", False), ("mesh", "false", False),
     ("both", "true", False), ("ipv4", "false", False)],
)  # fmt: skip
def test_a_contradiction_is_warned_of(choice: str, dual: str, contradicts: object) -> None:
    pod = FakePod(addresses=("10.0.0.5",))
    warnings = choose_families(explicit({IP_FAMILIES: choice, DUAL_STACK: dual}), pod).warnings
    assert bool(warnings) is contradicts
    if warnings:
        assert warnings == (f"--ip-families {choice} (command line) beats --dual-stack={dual} (command line)",)


@pytest.mark.parametrize(("other", "fate"), [("pass", "its traffic bypasses the proxy"), ("reject", "is rejected")])
@pytest.mark.parametrize("choice", ["mesh", "ipv4"])
def test_an_address_that_is_not_captured_is_warned_of(choice: str, other: str, fate: str) -> None:
    settings = explicit({IP_FAMILIES: choice, OTHER_FAMILY: other})
    (warning,) = choose_families(settings, FakePod(addresses=DUAL)).warnings
    assert (
        f"IPv6 is not captured (--ip-families {choice}, command line), but the pod has the address fd00::5" in warning
    )
    assert warning.endswith(fate)


def test_link_local_addresses_alone_are_one_line() -> None:
    pod = FakePod(addresses=("10.0.0.5", "fe80::5", "::1"))
    assert choose_families(explicit({IP_FAMILIES: "mesh"}), pod).warnings == ()
    assert "fe80::" in link_local_note(explicit({}), IPV4, pod.pod_addresses())
    assert link_local_note(explicit({}), BOTH, pod.pod_addresses()) == ""
    assert link_local_note(explicit({OTHER_FAMILY: "reject"}), IPV4, pod.pod_addresses()) == ""
    assert link_local_note(explicit({}), IPV4, FakePod(addresses=DUAL).pod_addresses()) == ""
    assert link_local_note(explicit({}), IPV4, FakePod(addresses=("10.0.0.5",)).pod_addresses()) == ""


@pytest.mark.parametrize(("choice", "is_drift"), [("both", True), ("mesh", False), ("ipv4", False)])
def test_a_family_without_rules_is_drift_only_where_both_were_requested(choice: str, is_drift: object) -> None:
    addresses = FakePod(addresses=DUAL).pod_addresses()
    drift, notes = judge_families(IPV4, explicit({IP_FAMILIES: choice}), addresses)
    assert (bool(drift), bool(notes)) == (is_drift, not is_drift)
    assert judge_families(BOTH, explicit({IP_FAMILIES: choice}), addresses) == ((), ())


@pytest.mark.parametrize("addresses", [DUAL, ("10.0.0.5",), ()])
def test_a_kernel_without_ipv6(addresses: tuple[str, ...]) -> None:
    pod = FakePod(addresses=addresses, ipv6=False)
    config, warnings = resolve(explicit({}), pod)
    assert config.families == IPV4
    assert warnings[0] == "this kernel cannot capture IPv6: only IPv4 is captured"
    assert resolve(explicit({IP_FAMILIES: "ipv4"}), FakePod(addresses=("10.0.0.5",), ipv6=False))[1] == []

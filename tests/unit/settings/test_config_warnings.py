"""Settings that cancel each other or the capture get a warning, others none."""

from __future__ import annotations

from typing import Any

import pytest

from capture.settings import options as option
from capture.settings.config import resolve
from support.captures.fake_pod import FakePod, explicit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.settings.options import Option


def warnings_of(which: Option[Any], text: str, pod: FakePod) -> list[str]:
    return resolve(explicit({which: text, option.IP_FAMILIES: "both"}), pod)[1]


@pytest.mark.parametrize(
    ("which", "text", "words"),
    [
        (option.EXCLUDED_OUTBOUND_NETWORKS, "0.0.0.0/0", "no outbound IPv4 is captured"),
        (option.EXCLUDED_OUTBOUND_NETWORKS, "128.0.0.0/1,10.0.0.0/8,0.0.0.0/1", "no outbound IPv4 is captured"),
        (option.EXCLUDED_OUTBOUND_NETWORKS, "::/0", "no outbound IPv6 is captured"),
        (option.EXCLUDED_INBOUND_NETWORKS, "0.0.0.0/0", "no inbound IPv4 is captured"),
        (option.EXCLUDED_OUTBOUND_PORTS, "1-65535", "nothing outbound is captured"),
        (option.EXCLUDED_OUTBOUND_PORTS, "30000-65535,1:29999", "nothing outbound is captured"),
        (option.EXCLUDED_INBOUND_PORTS, "1-65535", "nothing inbound is captured"),
        (option.PROXY_UID, "1000-4294967294,0-999", "nothing outbound is captured"),
        (option.PROXY_GID, "0-4294967294", "nothing outbound is captured"),
        (option.EXCLUDED_OWNER_GROUPS, "0-4294967294", "nothing outbound is captured"),
        (option.UID_PORT_EXCLUSIONS, "tcp:*:0-4294967294", "nothing outbound is captured"),
    ],
)
def test_settings_that_cancel_the_capture_get_a_warning(which: Option[object], text: str, words: str) -> None:
    (warning,) = warnings_of(which, text, FakePod())
    assert warning.startswith(f"{which.name} {text} (command line) holds every ")
    assert warning.endswith(words)


@pytest.mark.parametrize(
    ("which", "port", "words"),
    [
        (
            option.INBOUND_CAPTURE_PORT,
            "15001",
            "is the same as --envoy-port: inbound and outbound connections cannot be told apart",
        ),
        (option.INBOUND_CAPTURE_PORT, "15008", "is the same as --inbound-tunnel-port: the proxy expects tunnels"),
        (option.PROXY_PORT, "15008", "is the same as --inbound-tunnel-port: the proxy expects tunnels"),
    ],
)
def test_one_port_for_two_purposes_is_warned_of(which: Option[object], port: str, words: str) -> None:
    (warning,) = warnings_of(which, port, FakePod())
    assert warning.startswith(f"{which.name} {port} (command line) {words}")


def test_a_proxy_that_is_not_the_first_user_is_warned_of() -> None:
    (warning,) = warnings_of(option.PROXY_UID, "2000,1337", FakePod())
    assert warning.startswith("--proxy-uid 2000,1337 (command line) names 1337 after another user: ")
    assert warnings_of(option.PROXY_UID, "1337,2000", FakePod()) == []
    assert warnings_of(option.PROXY_UID, "1000-2000,1337", FakePod()) == []


def test_lo_among_interfaces_of_virtual_machines_is_warned_of() -> None:
    (warning,) = warnings_of(option.REROUTED_INTERFACES, "lo", FakePod())
    assert warning.endswith("(command line) has no effect on lo: OUTPUT has decided on what comes in there")
    assert warnings_of(option.REROUTED_INTERFACES, "eth0", FakePod()) == []


def test_swapped_ports_are_warned_of() -> None:
    swapped = explicit({option.PROXY_PORT: "15006", option.INBOUND_CAPTURE_PORT: "15001", option.IP_FAMILIES: "both"})
    (warning,) = resolve(swapped, FakePod())[1]
    assert warning.startswith("--envoy-port 15006 (command line) and --inbound-capture-port 15001 look swapped: ")
    assert resolve(swapped.with_option(option.PROXY_PORT, "15005", "test"), FakePod())[1] == []


def test_nothing_to_capture_is_warned_of() -> None:
    assert warnings_of(option.OWNER_GROUPS, "", FakePod()) == [
        "ISTIO_OUTBOUND_OWNER_GROUPS '' (command line) names no group: nothing outbound is captured"
    ]
    nothing = explicit({option.INBOUND_PORTS: "", option.OUTBOUND_NETWORKS: "", option.IP_FAMILIES: "both"})
    assert resolve(nothing, FakePod())[1] == [
        "--istio-inbound-ports '' (command line) is empty, and so is --istio-service-cidr: nothing is captured"
    ]
    assert resolve(nothing.with_option(option.OUTBOUND_PORTS, "80", "test"), FakePod())[1] == []


@pytest.mark.parametrize(
    ("which", "text"),
    [
        (option.UID_PORT_EXCLUSIONS, "udp:*:0-4294967294"),
        (option.EXCLUDED_INTERFACES, "lo"),
        (option.INBOUND_PORTS, ""),
        (option.OUTBOUND_NETWORKS, ""),
        (option.EXCLUDED_OUTBOUND_NETWORKS, "0.0.0.0/1,10.0.0.0/8"),
        (option.EXCLUDED_OUTBOUND_PORTS, "2-65535"),
        (option.EXCLUDED_OUTBOUND_PORTS, ""),
    ],
)
def test_settings_that_leave_something_to_capture_get_no_warning(which: Option[object], text: str) -> None:
    assert warnings_of(which, text, FakePod()) == []


NOTHING_COUNTS = "has no entry that counts: it is taken as an empty list"
EMPTY_ENTRY = "has an empty entry, which does not count"


@pytest.mark.parametrize(
    ("which", "text", "words"),
    [
        (option.EXCLUDED_INBOUND_PORTS, "0", NOTHING_COUNTS),
        (option.OUTBOUND_PORTS, ", 0 ,0", NOTHING_COUNTS),
        (option.EXCLUDED_OUTBOUND_NETWORKS, " , ", NOTHING_COUNTS),
        (option.PROXY_UID, ",", NOTHING_COUNTS),
        (option.EXCLUDED_INTERFACES, ",", NOTHING_COUNTS),
        (option.EXCLUDED_INBOUND_PORTS, "80, ,90", EMPTY_ENTRY),
        (option.PROXY_GID, ",5", EMPTY_ENTRY),
        (option.EXCLUDED_OWNER_GROUPS, "5,,", EMPTY_ENTRY),
        (option.TPROXY_MARK, "5", "has no effect without --istio-inbound-interception-mode TPROXY"),
        (option.TPROXY_ROUTE_TABLE, "5", "has no effect without --istio-inbound-interception-mode TPROXY"),
        (option.REQUIRE_PROOF, "true", "has no effect without --run-validation"),
        (option.OTHER_FAMILY, "reject", "has no effect: both families are captured"),
    ],
)
def test_what_does_not_count_is_warned_of(which: Option[object], text: str, words: str) -> None:
    assert warnings_of(which, text, FakePod()) == [f"{which.name} {text} (command line) {words}"]


@pytest.mark.parametrize(
    ("which", "text", "by", "other", "words"),
    [
        (option.OUTBOUND_PORTS, "80,85,99", option.EXCLUDED_OUTBOUND_PORTS, "80-90",
         "names 80, 85, which {} leaves alone"),
        (option.OUTBOUND_NETWORKS, "fd00::/9,10.0.0.0/7", option.EXCLUDED_OUTBOUND_NETWORKS, "10.0.0.0/8,fd00::/8",
         "names fd00::/9, which {} leaves alone"),
        (option.EXCLUDED_INBOUND_PORTS, "15020", option.INBOUND_PORTS, "1-65535", "names 15020, which {} captures"),
        (option.EXCLUDED_INTERFACES, "net1,eth0", option.REROUTED_INTERFACES, "eth0",
         "names eth0, which {} captures inbound"),
    ],
)  # fmt: skip
def test_an_entry_that_another_option_cancels_is_warned_of(
    which: Option[object], text: str, by: Option[object], other: str, words: str
) -> None:
    pod = FakePod(interfaces=None)
    given = {which: text, by: other, option.IP_FAMILIES: "both"}
    assert resolve(explicit(given), pod)[1] == [f"{which.name} {text} (command line) {words.format(by.name)}"]
    assert resolve(explicit(given).without(which), pod)[1] == []


@pytest.mark.parametrize("which", option.NETWORK_OPTIONS[:3])
def test_networks_of_a_family_that_is_not_captured_are_warned_of(which: Option[object]) -> None:
    settings = explicit({which: "fd00::/8", option.IP_FAMILIES: "ipv4"})
    effect = "no destination is left" if which == option.OUTBOUND_NETWORKS else "it has no effect"
    words = f"{which.name} fd00::/8 (command line) names IPv6 alone, which is not captured: {effect}"
    assert resolve(settings, FakePod(addresses=("10.0.0.5",)))[1] == [words]
    assert (
        resolve(settings.with_option(which, "fd00::/8,10.0.0.0/8", "test"), FakePod(addresses=("10.0.0.5",)))[1] == []
    )


def test_name_servers_of_a_family_that_is_not_captured_are_warned_of() -> None:
    settings = explicit({option.REDIRECT_DNS: "true", option.IP_FAMILIES: "ipv4"})
    (warning,) = resolve(settings, FakePod(addresses=("10.0.0.5",), servers=("fd00::a",)))[1]
    assert warning.startswith("--redirect-dns true (command line) has no effect: the pod's name servers are IPv6")
    assert resolve(settings, FakePod(addresses=("10.0.0.5",), servers=("fd00::a", "10.96.0.10")))[1] == []


def test_settings_of_a_whole_mesh_are_not_warned_of() -> None:
    """Templates end lists with a comma, and a mesh rejects the other family where a pod has both."""
    mesh = {option.EXCLUDED_INBOUND_PORTS: "15090,15021,", option.OTHER_FAMILY: "reject", option.IP_FAMILIES: "mesh"}
    assert resolve(explicit({**mesh, option.TPROXY_MARK: "1337"}), FakePod(addresses=("fd00::5",)))[1] == []


@pytest.mark.parametrize("which", [option.EXCLUDED_INTERFACES, option.REROUTED_INTERFACES])
def test_an_interface_that_is_not_there_is_warned_of(which: Option[object]) -> None:
    pod = FakePod(interfaces=("eth0", "net1", "tap0"))
    assert warnings_of(which, "net1,eth+", pod) == []
    assert warnings_of(which, "net1@if12,vif+", pod) == [
        f"{which.name} (command line): the pod has no interface {name} now (it has: eth0, net1, tap0)"
        for name in ("net1@if12", "vif+")
    ]
    assert warnings_of(which, "net7", FakePod(interfaces=None)) == []


def test_leaving_out_every_interface_is_warned_of() -> None:
    (warning,) = warnings_of(option.EXCLUDED_INTERFACES, "net1,eth+", FakePod(interfaces=("eth0", "net1")))
    assert "names every interface of the pod: nothing is captured but over lo" in warning
    assert warnings_of(option.EXCLUDED_INTERFACES, "eth+", FakePod(interfaces=())) == [
        "--istio-exclude-interfaces (command line): the pod has no interface eth+ now (it has: only lo)"
    ]

"""What Envoy's configuration says of its listeners, and where that does not fit the capture."""

from typing import Any

import pytest

from capture.analysis.captured_pod import Capture
from capture.analysis.envoy_listeners import (
    ORIGINAL_DESTINATION,
    ORIGINAL_SOURCE,
    EnvoyListener,
    causes_of_listeners,
    listeners_of,
)
from capture.analysis.outcome import PROXY_INBOUND, PROXY_OUTBOUND
from capture.model.addresses import FAMILIES

PORTS = tuple(
    (outcome, family, port)
    for family in FAMILIES
    for outcome, port in ((PROXY_OUTBOUND, 15001), (PROXY_INBOUND, 15006))
)
CAPTURE = Capture(PORTS, (), (), is_transparent=False, families=FAMILIES)
TPROXY = CAPTURE.replace(is_transparent=True)
MARK = 1337
OUTBOUND, INBOUND = (
    EnvoyListener(
        name, (("ipv4", port), ("ipv6", port)), is_transparent=False, restores_destination=True, mark=0
    )
    for name, port in (("outbound", 15001), ("inbound", 15006))
)  # fmt: skip
TRANSPARENT = INBOUND.replace(is_transparent=True)


def socket(address: str = "0.0.0.0", port: int = 15001, **more: bool) -> dict[str, Any]:
    return {"socket_address": {"address": address, "port_value": port, **more}}


def read(**plain: Any) -> EnvoyListener:
    """Return a listener that is configured so."""
    dump = {"configs": [{"static_listeners": [{"listener": {"name": "x", "address": socket(), **plain}}]}]}
    (found,) = listeners_of(dump)
    return found


def test_static_and_active_listeners_are_read() -> None:
    active = {"active_state": {"listener": {"name": "dynamic", "address": socket(port=15006)}}}
    dump = {
        "configs": [
            {"@type": "of bootstrap"},
            {"static_listeners": [{"listener": {"name": "static", "address": socket()}}]},
            {"dynamic_listeners": [active, {"warming_state": {}}]},
        ]
    }
    found = list(listeners_of(dump))
    assert [(each.name, each.ports) for each in found] == [
        ("static", (("ipv4", 15001),)),
        ("dynamic", (("ipv4", 15006),)),
        ("", (("ipv4", 0),)),
    ]
    assert list(listeners_of({})) == []


def test_a_listener_that_is_not_bound_does_not_count() -> None:
    assert read(bind_to_port=True).name == "x"
    unbound = {"listener": {"bind_to_port": False, "address": socket()}}
    assert list(listeners_of({"configs": [{"static_listeners": [unbound]}]})) == []


@pytest.mark.parametrize(
    ("plain", "ports"),
    [
        ({"address": socket("127.0.0.1", 1)}, (("ipv4", 1),)),
        ({"address": socket("::", 1)}, (("ipv6", 1),)),
        ({"address": socket("::", 1, ipv4_compat=True)}, (("ipv6", 1), ("ipv4", 1))),
        ({"address": socket("0.0.0.0", 1, ipv4_compat=True)}, (("ipv4", 1),)),
        ({"additional_addresses": [{"address": socket("::", 2)}]}, (("ipv4", 15001), ("ipv6", 2))),
    ],
)
def test_the_ports_of_a_listener(plain: dict[str, Any], ports: tuple[tuple[str, int], ...]) -> None:
    assert read(**plain).ports == ports


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        ({}, (False, False, 0)),
        ({"transparent": True}, (True, False, 0)),
        ({"use_original_dst": True}, (False, True, 0)),
        ({"listener_filters": [{"name": ORIGINAL_DESTINATION}]}, (False, True, 0)),
        ({"listener_filters": [{"name": ORIGINAL_SOURCE}]}, (False, False, 0)),
        ({"listener_filters": [{"name": ORIGINAL_SOURCE, "typed_config": {"mark": 7}}]}, (False, False, 7)),
    ],
)
def test_the_ways_of_a_listener(plain: dict[str, Any], expected: tuple[bool, bool, int]) -> None:
    found = read(**plain)
    assert (found.is_transparent, found.restores_destination, found.mark) == expected


def test_the_names_of_the_filters_are_those_of_envoy() -> None:
    """They come from Envoy's documentation of its listener filters."""
    assert ORIGINAL_DESTINATION == "envoy.filters.listener.original_dst"
    assert ORIGINAL_SOURCE == "envoy.filters.listener.original_src"


NO_IPV6 = "Envoy has no listener on tcp port {} for IPv6, which is captured"


@pytest.mark.parametrize(
    ("capture", "listeners", "found"),
    [
        (CAPTURE, (OUTBOUND, INBOUND), []),
        (TPROXY, (OUTBOUND, TRANSPARENT), []),
        (TPROXY, (OUTBOUND, TRANSPARENT.replace(mark=MARK)), []),
        (CAPTURE, (OUTBOUND, INBOUND.replace(mark=7)), []),
        (CAPTURE, (OUTBOUND.replace(is_transparent=True), INBOUND), []),
        (CAPTURE, (OUTBOUND.replace(ports=OUTBOUND.ports[:1]), INBOUND), [NO_IPV6.format(15001)]),
        (CAPTURE.replace(ports=PORTS[:2]), (OUTBOUND.replace(ports=OUTBOUND.ports[:1]), INBOUND), []),
        (CAPTURE.replace(ports=PORTS[2:]), (OUTBOUND,), [NO_IPV6.format(15006)]),
        (
            CAPTURE,
            (OUTBOUND.replace(restores_destination=False), INBOUND, INBOUND.replace(ports=(("ipv4", 80),))),
            ["Envoy's listener outbound on port 15001 does not use the original destination"],
        ),
        (
            CAPTURE,
            (OUTBOUND, TRANSPARENT.replace(mark=7)),
            ["the rules use REDIRECT, and Envoy's listener inbound on port 15006 is configured for TPROXY"],
        ),
        (
            TPROXY,
            (OUTBOUND, INBOUND.replace(mark=7)),
            ["the rules use TPROXY, and Envoy's listener inbound on port 15006 is configured for REDIRECT"],
        ),
        (
            TPROXY,
            (OUTBOUND.replace(mark=8), TRANSPARENT.replace(mark=7)),
            ["Envoy's listener on port 15006 marks connections with 0x7, and the rules expect 0x539"],
        ),
    ],
)
def test_each_misfit_of_envoy_is_a_cause(
    capture: Capture, listeners: tuple[EnvoyListener, ...], found: list[str]
) -> None:
    causes = list(causes_of_listeners(listeners, capture, MARK))

    assert [cause.message for cause in causes] == found
    assert {cause.where for cause in causes} <= {"tcp port 15001", "tcp port 15006"}


@pytest.mark.parametrize(("capture", "inbound", "words"), [(TPROXY, INBOUND, "true"), (CAPTURE, TRANSPARENT, "false")])
def test_the_remedy_names_what_to_set(capture: Capture, inbound: EnvoyListener, words: str) -> None:
    (cause,) = causes_of_listeners((OUTBOUND, inbound), capture, MARK)
    assert cause.kind == "proxy-mode"
    assert cause.remedy.startswith(f"Set transparent: {words} on it")

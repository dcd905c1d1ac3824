"""Causes that no test can make in a kernel it shares, and the limits of the others."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import capture
from capture.analysis.cause_texts import TEXTS, cause
from capture.analysis.causes import (
    Capture,
    PodFacts,
    causes_at_port,
    causes_of_connection,
    causes_of_pod,
    causes_of_proxy,
)
from capture.model.addresses import parse_address
from capture.model.packet import Packet
from capture.model.ruleset import only
from capture.netlink.interfaces import IFF_UP, Link
from capture.netlink.rtnetlink import AF_INET, AF_INET6
from capture.netlink.sock_diag import IPPROTO_TCP, IPPROTO_UDP, Listener
from capture.report.differences import text_of
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from support.rules.traced import trace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from capture.analysis.cause_texts import Cause

CAPTURE_PACKAGE = Path(capture.__file__).parent
TELL_CAUSES = ("analysis/causes", "analysis/envoy", "operations/diagnosis")
OF_A_FAMILY: dict[str, object] = {"family": "IPv6", "other": "IPv4", "any_address": "::"}
"""Words that one cause takes from a dictionary."""
PROXY = 1337
CAPTURE = Capture(15001, 15006, None, (only(PROXY),), (only(PROXY),), is_transparent=False, families=("ipv4", "ipv6"))
IPV4_ONLY = CAPTURE.replace(families=("ipv4",))
ETH0 = Link(2, "eth0", IFF_UP)
FACTS = PodFacts((ETH0,), (parse_address("10.0.0.1"), parse_address("fd00::1")), (), {})


def listener(port: int, *, family: int = AF_INET, uid: int = PROXY, inode: int = 1, **more: bool) -> Listener:
    return Listener(IPPROTO_TCP, family, bytes(16 if family == AF_INET6 else 4), port, uid, inode=inode, **more)


def kinds(causes: Iterable[Cause]) -> list[str]:
    return [cause.kind for cause in causes]


@pytest.mark.parametrize(
    ("tracked", "found"), [(0, []), (900, []), (950, ["conntrack-full"]), (1000, ["conntrack-full"])]
)
def test_a_full_conntrack_table(tracked: int, found: list[str]) -> None:
    assert kinds(causes_of_pod(FACTS.replace(tracked=tracked, max_tracked=1000), CAPTURE)) == found
    assert kinds(causes_of_pod(FACTS.replace(tracked=tracked, max_tracked=0), CAPTURE)) == []


@pytest.mark.parametrize(("name", "found"), [("eth0", ["interface-down"]), ("eth1", ["not-listening"])])
def test_what_comes_in_by_an_interface_that_is_down(name: str, found: list[str]) -> None:
    packet = Packet("tcp", parse_address("10.0.0.1"), 8080, source=parse_address("10.0.0.9"), in_interface=name)
    traced = trace(build_ruleset(CaptureConfig()), packet)
    down = FACTS.replace(links=(Link(2, "eth0", 0), Link(3, "eth1", IFF_UP)))
    assert kinds(causes_of_connection(traced, None, down, CAPTURE, text_of)) == found


@pytest.mark.parametrize(("name", "found"), [("eth0", []), ("net1", ["interface-missing"]), ("net+", [])])
def test_an_excluded_interface(name: str, found: list[str]) -> None:
    assert kinds(causes_of_pod(FACTS, CAPTURE.replace(excluded_interfaces=(name,)))) == found


def test_one_listener_for_both_families_serves_both() -> None:
    both = tuple(listener(port, family=AF_INET6, is_dual=True) for port in (15001, 15006))
    assert kinds(causes_of_proxy(FACTS.replace(listeners=both), CAPTURE)) == []
    only_ipv6 = tuple(each.replace(is_dual=False) for each in both)
    assert kinds(causes_of_proxy(FACTS.replace(listeners=only_ipv6), CAPTURE)) == ["not-listening"] * 2


def test_a_proxy_on_other_ports_is_named_with_them() -> None:
    facts = FACTS.replace(listeners=(listener(15006), listener(15001), listener(8080, uid=1000)))
    (cause,) = causes_at_port(facts, CAPTURE, "proxy-outbound", 16001, "ipv4")
    assert cause.says.endswith("; the proxy's user listens on 15001, 15006")
    assert "(-p, -z)" in cause.remedy


def test_a_family_without_an_address_needs_no_listener() -> None:
    facts = FACTS.replace(addresses=(parse_address("10.0.0.1"),), listeners=(listener(15001), listener(15006)))
    assert kinds(causes_of_proxy(facts, CAPTURE)) == []


def test_a_pod_with_lo_alone_needs_a_listener_for_what_it_sends() -> None:
    facts = FACTS.replace(links=(), addresses=())
    assert set(kinds(causes_of_proxy(facts, CAPTURE))) == {"not-listening"}
    assert kinds(causes_of_proxy(facts.replace(listeners=(listener(15001),)), IPV4_ONLY)) == []


def test_a_proxy_of_the_right_group_may_have_another_user() -> None:
    facts = FACTS.replace(listeners=(listener(15001, uid=0, inode=7),))
    assert kinds(causes_at_port(facts, CAPTURE, "proxy-outbound", 15001, "ipv4")) == ["proxy-wrong-user"]
    of_group = facts.replace(gid_of={7: PROXY})
    assert kinds(causes_at_port(of_group, CAPTURE, "proxy-outbound", 15001, "ipv4")) == []


def test_root_whose_group_is_out_of_sight_is_not_blamed_under_tproxy() -> None:
    facts = FACTS.replace(listeners=(listener(15001, uid=0), listener(15002, uid=2000)))
    transparent = CAPTURE.replace(is_transparent=True)
    assert kinds(causes_at_port(facts, transparent, "proxy-outbound", 15001, "ipv4")) == []
    (cause,) = causes_at_port(facts, transparent, "proxy-outbound", 15002, "ipv4")
    assert cause.kind == "proxy-wrong-user"
    assert cause.remedy == "Run the proxy as root with group 1337 (runAsUser: 0, runAsGroup: 1337)."


def test_what_cannot_be_listed_is_not_blamed() -> None:
    assert kinds(causes_of_proxy(FACTS.replace(listeners=None), CAPTURE)) == []


def test_dns_needs_a_listener_of_udp() -> None:
    capture = CAPTURE.replace(dns_port=15053, families=("ipv4",))
    served = (listener(15001), listener(15006), Listener(IPPROTO_UDP, AF_INET, bytes(4), 15053, PROXY))
    assert kinds(causes_of_proxy(FACTS.replace(listeners=served), capture)) == []
    assert kinds(causes_of_proxy(FACTS.replace(listeners=served[:2]), capture)) == ["not-listening"]


def test_every_text_is_used_with_the_words_that_it_needs() -> None:
    """A word that is misspelt would show in the pod that is broken, and nowhere else."""
    sources = [(CAPTURE_PACKAGE / f"{name}.py").read_text() for name in TELL_CAUSES]
    assert [name for name in TEXTS if not any(f'"{name}"' in source for source in sources)] == []
    for call in (each for source in sources for each in ast.walk(ast.parse(source))):
        match call:
            case ast.Call(func=ast.Name(id="cause"), args=[ast.Constant(value=str() as name), *_], keywords=words):
                filled: dict[str, object] = {word.arg: 1 for word in words if word.arg}
                assert "{" not in cause(name, "", **OF_A_FAMILY | filled).says

"""The policy in words."""

from __future__ import annotations

from capture.analysis.policy import explain
from capture.model.addresses import parse_network
from capture.model.ruleset import only
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig


def lines(config: CaptureConfig) -> list[tuple[str, str, str]]:
    return [(s.direction, s.traffic, s.outcome) for s in explain(build_ruleset(config), "ipv4")]


def test_the_policy_of_the_default_settings() -> None:
    assert lines(CaptureConfig(excluded_inbound_ports=(only(15021),))) == [
        ("inbound", "tcp to port 15008", "direct"),
        ("inbound", "tcp to port 22", "direct"),
        ("inbound", "tcp to port 15021", "direct"),
        ("inbound", "tcp", "to port 15006 of the pod"),
        ("inbound", "everything else", "direct"),
        ("outbound", "tcp from 127.0.0.6 out by lo", "direct"),
        ("outbound", "tcp not to 127.0.0.1 out by lo of user 1337", "to port 15006 of the pod"),
        ("outbound", "tcp out by lo not of user 1337", "direct"),
        ("outbound", "tcp of user 1337", "direct"),
        ("outbound", "tcp not to 127.0.0.1 out by lo of group 1337", "to port 15006 of the pod"),
        ("outbound", "tcp out by lo not of group 1337", "direct"),
        ("outbound", "tcp of group 1337", "direct"),
        ("outbound", "tcp to 127.0.0.1", "direct"),
        ("outbound", "tcp", "to port 15001 of the pod"),
        ("outbound", "everything else", "direct"),
    ]


def test_every_statement_of_ours_has_its_reason() -> None:
    config = CaptureConfig(mode="TPROXY", captures_dns=True, captures_all_dns=True, drops_invalid=True)

    assert all(statement.why for statement in explain(build_ruleset(config), "ipv6"))


def test_long_lists_are_cut_short() -> None:
    networks = tuple(parse_network(f"10.{number}.0.0/16") for number in range(0, 60, 2))

    (line,) = [t for _, t, _ in lines(CaptureConfig(excluded_outbound_networks=networks)) if "10." in t]

    assert line == "tcp to 10.0.0.0/16, 10.2.0.0/16, 10.4.0.0/16, 10.6.0.0/16, 10.8.0.0/16, 10.10.0.0/16 and 24 more"

"""The raw table: the two conntrack zones of DNS."""

import pytest

from capture.model.addresses import Family
from capture.settings import options as option
from support.captures.fake_pod import IPV4_ALONE, POD, FakePod, Texts, ruleset_of
from support.rules.notation import lines, shown

CAPTURED: Texts = {option.REDIRECT_DNS: "true"}
ALL: Texts = {**CAPTURED, option.CAPTURE_ALL_DNS: "true"}


def raw(texts: Texts, pod: FakePod = POD, family: Family = "ipv4") -> list[str]:
    rules = shown(ruleset_of({option.CHAIN_NAMES: "underscore", **texts}, pod), family)
    return rules[: rules.index("nat OUTPUT") if "nat PREROUTING" not in rules else rules.index("nat PREROUTING")]


def test_no_dns_no_table() -> None:
    assert raw({}) == []
    assert raw({option.CAPTURE_ALL_DNS: "true"}) == []


@pytest.mark.parametrize("profile", ["classic", "current"])
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_all_dns_is_tracked_in_zones(profile: str, family: Family) -> None:
    assert raw({**ALL, option.PROFILE: profile}, family=family) == lines("""
        raw PREROUTING
            any                                 -> ISTIO_INBOUND
        raw OUTPUT
            any                                 -> ISTIO_OUTPUT_DNS
        raw ISTIO_INBOUND
            udp & sport 53                      -> zone 1
        raw ISTIO_OUTPUT_DNS
            udp & port 53 & uid 1337            -> zone 1
            udp & sport 15053 & uid 1337        -> zone 2
            udp & port 53 & gid 1337            -> zone 1
            udp & sport 15053 & gid 1337        -> zone 2
            udp & port 53                       -> zone 2
    """)


SERVERS = """
    raw PREROUTING
        any                                 -> ISTIO_INBOUND
    raw OUTPUT
        any                                 -> ISTIO_OUTPUT_DNS
    raw ISTIO_INBOUND
        from 10.96.0.10 & udp & sport 53    -> zone 1
        from 10.96.0.11 & udp & sport 53    -> zone 1
    raw ISTIO_OUTPUT_DNS
        udp & port 53 & uid 3               -> zone 1
        udp & sport 15053 & uid 3           -> zone 2
        udp & port 53 & uid 4               -> zone 1
        udp & sport 15053 & uid 4           -> zone 2
        udp & port 53 & gid 1               -> zone 1
        udp & sport 15053 & gid 1           -> zone 2
        to 10.96.0.10 & udp & port 53       -> zone 2
        to 10.96.0.11 & udp & port 53       -> zone 2
"""

NO_SERVER_OF_THE_FAMILY = """
    raw OUTPUT
        any                                 -> ISTIO_OUTPUT_DNS
    raw ISTIO_OUTPUT_DNS
        udp & port 53 & uid 3               -> zone 1
        udp & sport 15053 & uid 3           -> zone 2
        udp & port 53 & uid 4               -> zone 1
        udp & sport 15053 & uid 4           -> zone 2
        udp & port 53 & gid 1               -> zone 1
        udp & sport 15053 & gid 1           -> zone 2
"""


@pytest.mark.parametrize(
    ("servers", "ipv4", "ipv6"),
    [
        (("10.96.0.10", "10.96.0.11"), SERVERS, NO_SERVER_OF_THE_FAMILY),
        (
            ("fd00::a", "fd00::b"),
            NO_SERVER_OF_THE_FAMILY,
            SERVERS.replace("10.96.0.10", "fd00::a").replace("10.96.0.11", "fd00::b"),
        ),
        (
            ("10.96.0.10", "fd00::a", "10.96.0.11", "fd00::b"),
            SERVERS,
            SERVERS.replace("10.96.0.10", "fd00::a").replace("10.96.0.11", "fd00::b"),
        ),
        ((), "", ""),
    ],
)
def test_servers_of_resolv_conf(servers: tuple[str, ...], ipv4: str, ipv6: str) -> None:
    pod = FakePod(servers=servers)
    texts = {**CAPTURED, option.PROXY_UID: "3,4", option.PROXY_GID: "1"}
    assert raw(texts, pod, "ipv4") == lines(ipv4)
    assert raw(texts, pod, "ipv6") == lines(ipv6)


def test_servers_of_a_family_that_the_pod_has_not() -> None:
    pod = FakePod(addresses=("10.0.0.5",), servers=("10.96.0.10", "fd00::a"))
    ruleset = ruleset_of({**CAPTURED, **IPV4_ALONE}, pod)
    assert ruleset.families == ("ipv4",)
    assert shown(ruleset, "ipv6") == []

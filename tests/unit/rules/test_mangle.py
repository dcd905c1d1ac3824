"""The mangle table: TPROXY and dropping of invalid packets, alone and together."""

import pytest

from capture.model.addresses import Family
from capture.settings import options as option
from support.captures.fake_pod import IPV4_ALONE, POD, Texts, ruleset_of
from support.rules.notation import chain_lines, lines, shown

TRANSPARENT: Texts = {option.INTERCEPTION_MODE: "TPROXY"}
UNDERSCORE: Texts = {option.CHAIN_NAMES: "underscore"}


def mangle(texts: Texts, family: Family = "ipv4", profile: str = "current") -> list[str]:
    """Return the mangle table, which comes before nat."""
    rules = shown(ruleset_of({**UNDERSCORE, option.PROFILE: profile, **texts}), family)
    start = next((place for place, line in enumerate(rules) if line.startswith("mangle ")), 0)
    end = next(place for place, line in enumerate(rules) if line.startswith("nat "))
    return rules[start:end]


def inbound(texts: Texts, profile: str = "current") -> list[str]:
    ruleset = ruleset_of({**UNDERSCORE, option.PROFILE: profile, **TRANSPARENT, **texts})
    return chain_lines(ruleset, "mangle", "ISTIO_INBOUND")


ALL_PORTS = """
    mangle PREROUTING
        tcp                                                 -> ISTIO_INBOUND
        tcp & mark 0x539                                    -> save mark
    mangle OUTPUT
        out lo & tcp & mark 0x539                           -> return
        not to 127.0.0.1 & out lo & tcp & uid 1337          -> set mark 0x53a
        not to 127.0.0.1 & out lo & tcp & gid 1337          -> set mark 0x53a
        tcp & connmark 0x539                                -> restore mark
    mangle ISTIO_DIVERT
        any                                                 -> set mark 0x539
        any                                                 -> accept
    mangle ISTIO_INBOUND
        tcp & mark 0x539                                    -> return
        from 127.0.0.6 & in lo & tcp                        -> return
        in lo & tcp & not mark 0x53a                        -> return
        tcp & port 15090                                    -> return
        tcp & port 15021                                    -> return
        tcp & port 15020                                    -> return
        tcp & state RELATED,ESTABLISHED                     -> ISTIO_DIVERT
        tcp                                                 -> ISTIO_TPROXY
    mangle ISTIO_TPROXY
        not to 127.0.0.1 & tcp                              -> tproxy 15006 mark 0x539
"""


def test_redirect_mode_needs_no_mangle_table() -> None:
    assert mangle({}) == []


def test_tproxy_takes_all_ports() -> None:
    assert mangle(TRANSPARENT) == lines(ALL_PORTS)


def test_tproxy_has_the_same_rules_for_ipv6() -> None:
    assert mangle(TRANSPARENT, "ipv6") == lines(ALL_PORTS.replace("127.0.0.6", "::6").replace("127.0.0.1", "::1"))


def test_classic_leaves_ssh_alone_here_too() -> None:
    assert mangle(TRANSPARENT, profile="classic") == lines(
        ALL_PORTS.replace("tcp & port 15090 ", "tcp & port 22 -> return\ntcp & port 15090 ")
    )


def test_tproxy_takes_listed_ports_one_by_one() -> None:
    """Known connections before new ones, port by port."""
    assert inbound({option.INBOUND_PORTS: "4000,5000-5100"}) == lines("""
        tcp & mark 0x539                                            -> return
        from 127.0.0.6 & in lo & tcp                                -> return
        in lo & tcp & not mark 0x53a                                -> return
        tcp & port 4000 & state RELATED,ESTABLISHED                 -> ISTIO_DIVERT
        tcp & port 4000                                             -> ISTIO_TPROXY
        tcp & port 5000-5100 & state RELATED,ESTABLISHED            -> ISTIO_DIVERT
        tcp & port 5000-5100                                        -> ISTIO_TPROXY
    """)


def test_tproxy_leaves_excluded_sources_alone() -> None:
    assert inbound({option.EXCLUDED_INBOUND_NETWORKS: "192.0.2.0/24", option.EXCLUDED_INBOUND_PORTS: ""}) == lines("""
        tcp & mark 0x539                                            -> return
        from 127.0.0.6 & in lo & tcp                                -> return
        in lo & tcp & not mark 0x53a                                -> return
        from 192.0.2.0/24 & tcp                                     -> return
        tcp & state RELATED,ESTABLISHED                             -> ISTIO_DIVERT
        tcp                                                         -> ISTIO_TPROXY
    """)


@pytest.mark.parametrize("profile", ["classic", "current"])
def test_transparent_without_inbound_ports(profile: str) -> None:
    """Marks are kept, because the proxy may still set them; nothing is handed to it, and nothing is routed."""
    texts = {**TRANSPARENT, option.INBOUND_PORTS: ""}
    assert mangle(texts, profile=profile) == lines("""
        mangle PREROUTING
            tcp & mark 0x539                                    -> save mark
        mangle OUTPUT
            out lo & tcp & mark 0x539                           -> return
            not to 127.0.0.1 & out lo & tcp & uid 1337          -> set mark 0x53a
            not to 127.0.0.1 & out lo & tcp & gid 1337          -> set mark 0x53a
            tcp & connmark 0x539                                -> restore mark
        mangle ISTIO_INBOUND
            tcp & mark 0x539                                    -> return
            from 127.0.0.6 & in lo & tcp                        -> return
            in lo & tcp & not mark 0x53a                        -> return
    """)
    assert ruleset_of(texts).policy_routes == ()


def test_ids_interfaces_mark_port_and_loopback() -> None:
    texts = {
        **TRANSPARENT,
        option.TPROXY_MARK: "0x77",
        option.INBOUND_CAPTURE_PORT: "16006",
        option.PROXY_UID: "3,4",
        option.PROXY_GID: "1",
        option.EXCLUDED_INTERFACES: "eth1,eth2",
        option.IPV4_LOOPBACK: "127.0.0.0/8",
        option.INBOUND_PORTS: "80",
    }
    assert mangle(texts) == lines("""
        mangle PREROUTING
            in eth1                                                 -> return
            in eth2                                                 -> return
            tcp                                                     -> ISTIO_INBOUND
            tcp & mark 0x77                                         -> save mark
        mangle OUTPUT
            out eth1                                                -> return
            out eth2                                                -> return
            out lo & tcp & mark 0x77                                -> return
            not to 127.0.0.0/8 & out lo & tcp & uid 3               -> set mark 0x53a
            not to 127.0.0.0/8 & out lo & tcp & uid 4               -> set mark 0x53a
            not to 127.0.0.0/8 & out lo & tcp & gid 1               -> set mark 0x53a
            tcp & connmark 0x77                                     -> restore mark
        mangle ISTIO_DIVERT
            any                                                     -> set mark 0x77
            any                                                     -> accept
        mangle ISTIO_INBOUND
            tcp & mark 0x77                                         -> return
            from 127.0.0.6 & in lo & tcp                            -> return
            in lo & tcp & not mark 0x53a                            -> return
            tcp & port 80 & state RELATED,ESTABLISHED               -> ISTIO_DIVERT
            tcp & port 80                                           -> ISTIO_TPROXY
        mangle ISTIO_TPROXY
            not to 127.0.0.0/8 & tcp                                -> tproxy 16006 mark 0x77
    """)


DROP = """
    mangle PREROUTING
        state INVALID       -> ISTIO_DROP
    mangle ISTIO_DROP
        any                 -> drop
"""


def test_dropping_invalid_packets_needs_no_tproxy() -> None:
    assert mangle({option.DROP_INVALID: "true"}) == lines(DROP)


def test_drop_invalid_on_interfaces_that_are_left_alone_too() -> None:
    """In REDIRECT mode excluded interfaces concern the nat table only."""
    assert mangle({option.DROP_INVALID: "true", option.EXCLUDED_INTERFACES: "eth1"}) == lines(DROP)


def test_drop_invalid_with_transparent_proxy() -> None:
    texts = {**TRANSPARENT, option.DROP_INVALID: "true", option.EXCLUDED_INTERFACES: "eth1"}
    ruleset = ruleset_of({**UNDERSCORE, **texts})
    assert chain_lines(ruleset, "mangle", "PREROUTING") == lines("""
        in eth1                 -> return
        state INVALID           -> ISTIO_DROP
        tcp                     -> ISTIO_INBOUND
        tcp & mark 0x539        -> save mark
    """)
    assert chain_lines(ruleset, "mangle", "ISTIO_DROP") == ["any -> drop"]


def test_routes_by_mark_in_each_family() -> None:
    texts = {**TRANSPARENT, option.TPROXY_MARK: "7", option.TPROXY_ROUTE_TABLE: "200"}
    routes = [(route.family, route.mark, route.table) for route in ruleset_of(texts, POD).policy_routes]
    assert routes == [("ipv4", 7, 200), ("ipv6", 7, 200)]
    assert [route.family for route in ruleset_of({**texts, **IPV4_ALONE}).policy_routes] == ["ipv4"]
    assert ruleset_of({}).policy_routes == ()

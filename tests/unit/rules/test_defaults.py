"""The whole rule set for the settings that most pods have, in both profiles and both families."""

import pytest

from capture.settings import options as option
from support.captures.fake_pod import IPV4_ALONE, POD, Texts, ruleset_of
from support.rules.notation import lines, shown

ARGUMENTS_OF_THE_DOCUMENT: Texts = {
    option.PROXY_PORT: "15001",
    option.INBOUND_CAPTURE_PORT: "15006",
    option.PROXY_UID: "1337",
    option.INTERCEPTION_MODE: "REDIRECT",
    option.OUTBOUND_NETWORKS: "*",
    option.EXCLUDED_OUTBOUND_NETWORKS: "",
    option.INBOUND_PORTS: "*",
    option.EXCLUDED_INBOUND_PORTS: "15090,15021,15020",
}
"""What the document that this project starts from passes to the init container."""

CLASSIC_IPV4 = """
    nat PREROUTING
        tcp                                         -> ISTIO-INBOUND
    nat OUTPUT
        tcp                                         -> ISTIO-OUTPUT
    nat ISTIO-INBOUND
        tcp & port 15008                            -> return
        tcp & port 22                               -> return
        tcp & port 15090                            -> return
        tcp & port 15021                            -> return
        tcp & port 15020                            -> return
        tcp                                         -> ISTIO-IN-REDIRECT
    nat ISTIO-IN-REDIRECT
        tcp                                         -> redirect 15006
    nat ISTIO-OUTPUT
        from 127.0.0.6 & out lo                     -> return
        not to 127.0.0.1 & out lo & uid 1337        -> ISTIO-IN-REDIRECT
        out lo & not uid 1337                       -> return
        uid 1337                                    -> return
        not to 127.0.0.1 & out lo & gid 1337        -> ISTIO-IN-REDIRECT
        out lo & not gid 1337                       -> return
        gid 1337                                    -> return
        to 127.0.0.1                                -> return
        any                                         -> ISTIO-REDIRECT
    nat ISTIO-REDIRECT
        tcp                                         -> redirect 15001
"""

CURRENT_IPV4 = """
    nat PREROUTING
        tcp                                                                     -> ISTIO_INBOUND
    nat OUTPUT
        any                                                                     -> ISTIO_OUTPUT
    nat ISTIO_INBOUND
        tcp & port 15008                                                        -> return
        tcp & port 15090                                                        -> return
        tcp & port 15021                                                        -> return
        tcp & port 15020                                                        -> return
        tcp                                                                     -> ISTIO_IN_REDIRECT
    nat ISTIO_IN_REDIRECT
        tcp                                                                     -> redirect 15006
    nat ISTIO_OUTPUT
        from 127.0.0.6 & out lo                                                 -> return
        not to 127.0.0.1 & out lo & tcp & not port 15008 & uid 1337             -> ISTIO_IN_REDIRECT
        out lo & not uid 1337                                                   -> return
        uid 1337                                                                -> return
        not to 127.0.0.1 & out lo & tcp & not port 15008 & gid 1337             -> ISTIO_IN_REDIRECT
        out lo & not gid 1337                                                   -> return
        gid 1337                                                                -> return
        to 127.0.0.1                                                            -> return
        any                                                                     -> ISTIO_REDIRECT
    nat ISTIO_REDIRECT
        tcp                                                                     -> redirect 15001
"""

EXPECTED = {"classic": CLASSIC_IPV4, "current": CURRENT_IPV4}


def in_ipv6(text: str) -> str:
    """Return the same rules with the addresses that mean the same in IPv6."""
    return text.replace("127.0.0.6", "::6").replace("127.0.0.1", "::1")


def test_the_document_has_nineteen_rules_in_this_order() -> None:
    rules = shown(ruleset_of(ARGUMENTS_OF_THE_DOCUMENT))
    assert rules == lines(CLASSIC_IPV4)
    assert sum("->" in line for line in rules) == 19


@pytest.mark.parametrize("profile", ["classic", "current"])
def test_the_defaults_capture_everything_in_both_families(profile: str) -> None:
    ruleset = ruleset_of({option.PROFILE: profile})
    assert shown(ruleset, "ipv4") == lines(EXPECTED[profile])
    assert shown(ruleset, "ipv6") == lines(in_ipv6(EXPECTED[profile]))


@pytest.mark.parametrize("profile", ["classic", "current"])
@pytest.mark.parametrize(("spelling", "separator"), [("dash", "-"), ("underscore", "_")])
def test_spelling_changes_names_only(profile: str, spelling: str, separator: str) -> None:
    rules = shown(ruleset_of({option.PROFILE: profile, option.CHAIN_NAMES: spelling}))
    chains = ("INBOUND", "IN{}REDIRECT", "OUTPUT", "REDIRECT")
    names = [f"ISTIO{separator}{chain.format(separator)}" for chain in chains]
    assert [line.removeprefix("nat ") for line in rules if line.startswith("nat ISTIO")] == names
    assert [line.replace("-", "_") for line in rules] == [line.replace("-", "_") for line in lines(EXPECTED[profile])]


def test_ports_users_and_groups_are_those_that_were_given() -> None:
    ruleset = ruleset_of(
        {
            option.PROXY_PORT: "16001",
            option.INBOUND_CAPTURE_PORT: "16006",
            option.INBOUND_TUNNEL_PORT: "16008",
            option.PROXY_UID: "1400",
            option.PROXY_GID: "1500",
            option.PROFILE: "current",
        }
    )
    text = CURRENT_IPV4
    replaced = (
        ("15001", "16001"), ("15006", "16006"), ("15008", "16008"), ("uid 1337", "uid 1400"), ("gid 1337", "gid 1500"),
    )  # fmt: skip
    for default, value in replaced:
        text = text.replace(default, value)
    assert shown(ruleset) == lines(text)


def test_a_pod_of_one_family_has_rules_of_that_family() -> None:
    ruleset = ruleset_of(IPV4_ALONE)
    assert ruleset.families == ("ipv4",)
    assert shown(ruleset, "ipv4") == lines(CLASSIC_IPV4)
    assert shown(ruleset, "ipv6") == []


def test_nothing_to_capture_leaves_the_loops_of_the_proxy() -> None:
    """An empty list means none: nothing jumps to the inbound chain, and no destination goes to the proxy."""
    assert shown(ruleset_of({option.INBOUND_PORTS: "", option.OUTBOUND_NETWORKS: ""})) == lines("""
        nat OUTPUT
            tcp                                         -> ISTIO-OUTPUT
        nat ISTIO-INBOUND
            tcp & port 15008                            -> return
        nat ISTIO-IN-REDIRECT
            tcp                                         -> redirect 15006
        nat ISTIO-OUTPUT
            from 127.0.0.6 & out lo                     -> return
            not to 127.0.0.1 & out lo & uid 1337        -> ISTIO-IN-REDIRECT
            out lo & not uid 1337                       -> return
            uid 1337                                    -> return
            not to 127.0.0.1 & out lo & gid 1337        -> ISTIO-IN-REDIRECT
            out lo & not gid 1337                       -> return
            gid 1337                                    -> return
            to 127.0.0.1                                -> return
        nat ISTIO-REDIRECT
            tcp                                         -> redirect 15001
    """)


def test_every_rule_says_why_it_is_there() -> None:
    ruleset = ruleset_of(
        {
            option.INTERCEPTION_MODE: "TPROXY",
            option.REDIRECT_DNS: "true",
            option.CAPTURE_ALL_DNS: "true",
            option.DROP_INVALID: "true",
            option.EXCLUDED_INTERFACES: "eth1",
            option.REROUTED_INTERFACES: "net1",
            option.RULE_LOGS: "true",
        },
        POD,
    )
    rules = [rule for table in ruleset.tables for chain in table.chains for rule in chain.rules]
    assert [rule for rule in rules if not rule.why] == []
    assert all(rule.why.isascii() and '"' not in rule.why and len(rule.why) < 100 for rule in rules)
    assert {"DNS", "outbound DNS"} < {rule.why for rule in rules}

"""The nat table topic by topic: what each option adds, where, and in what order.

Chains are spelled with underscores here, in both profiles, so that one table serves both.
"""

import pytest

from capture.model.addresses import Family
from capture.settings import options as option
from support.captures.fake_pod import POD, FakePod, Texts, ruleset_of
from support.rules.notation import chain_lines, lines

PROFILES = ("classic", "current")


def nat(chain: str, texts: Texts, profile: str = "current", family: Family = "ipv4", pod: FakePod = POD) -> list[str]:
    names = {option.PROFILE: profile, option.CHAIN_NAMES: "underscore"}
    return chain_lines(ruleset_of({**names, **texts}, pod), "nat", chain, family)


def destinations(texts: Texts, family: Family = "ipv4") -> list[str]:
    """Return the rules of the outbound chain from the one for localhost on, which are those for destinations."""
    rules = nat("ISTIO_OUTPUT", texts, family=family)
    localhost = next(place for place, rule in enumerate(rules) if rule.startswith("to ") and rule.endswith("return"))
    return rules[localhost:]


class TestInboundPorts:
    @pytest.mark.parametrize("profile", PROFILES)
    def test_only_the_listed_ports_are_captured(self, profile: str) -> None:
        """Excluded ports have no effect then, not even those that are excluded by default."""
        texts = {option.INBOUND_PORTS: "80,8080-8090", option.EXCLUDED_INBOUND_PORTS: "8085,22"}
        assert nat("ISTIO_INBOUND", texts, profile) == lines("""
            tcp & port 15008        -> return
            tcp & port 80           -> ISTIO_IN_REDIRECT
            tcp & port 8080-8090    -> ISTIO_IN_REDIRECT
        """)
        assert nat("PREROUTING", texts, profile) == lines("tcp -> ISTIO_INBOUND")

    def test_all_but_the_excluded_ports(self) -> None:
        texts = {option.INBOUND_PORTS: "*", option.EXCLUDED_INBOUND_PORTS: "9090,7000-7010"}
        assert nat("ISTIO_INBOUND", texts) == lines("""
            tcp & port 15008        -> return
            tcp & port 9090         -> return
            tcp & port 7000-7010    -> return
            tcp                     -> ISTIO_IN_REDIRECT
        """)

    def test_classic_leaves_ssh_alone_before_the_excluded_ports(self) -> None:
        texts = {option.EXCLUDED_INBOUND_PORTS: "9090"}
        assert nat("ISTIO_INBOUND", texts, "classic") == lines("""
            tcp & port 15008        -> return
            tcp & port 22           -> return
            tcp & port 9090         -> return
            tcp                     -> ISTIO_IN_REDIRECT
        """)

    def test_all_ports_without_exception(self) -> None:
        assert nat("ISTIO_INBOUND", {option.EXCLUDED_INBOUND_PORTS: ""}) == lines("""
            tcp & port 15008        -> return
            tcp                     -> ISTIO_IN_REDIRECT
        """)

    @pytest.mark.parametrize("profile", PROFILES)
    def test_an_empty_list_captures_no_port(self, profile: str) -> None:
        assert nat("PREROUTING", {option.INBOUND_PORTS: ""}, profile) == []
        assert nat("ISTIO_INBOUND", {option.INBOUND_PORTS: ""}, profile) == lines("tcp & port 15008 -> return")

    @pytest.mark.parametrize(("family", "source"), [("ipv4", "192.0.2.0/24"), ("ipv6", "2001:db8::/32")])
    def test_excluded_sources_come_before_the_ports(self, family: Family, source: str) -> None:
        texts = {option.EXCLUDED_INBOUND_NETWORKS: "192.0.2.0/24,2001:db8::/32", option.EXCLUDED_INBOUND_PORTS: "9090"}
        assert nat("ISTIO_INBOUND", texts, family=family) == lines(f"""
            tcp & port 15008        -> return
            from {source} & tcp     -> return
            tcp & port 9090         -> return
            tcp                     -> ISTIO_IN_REDIRECT
        """)

    def test_excluded_sources_count_for_listed_ports_too(self) -> None:
        texts = {option.EXCLUDED_INBOUND_NETWORKS: "192.0.2.0/24", option.INBOUND_PORTS: "80"}
        assert nat("ISTIO_INBOUND", texts) == lines("""
            tcp & port 15008            -> return
            from 192.0.2.0/24 & tcp     -> return
            tcp & port 80               -> ISTIO_IN_REDIRECT
        """)


SOME_DESTINATIONS: Texts = {
    option.OUTBOUND_NETWORKS: "10.0.0.0/8,fd00::/8,172.16.0.0/12",
    option.EXCLUDED_OUTBOUND_NETWORKS: "fd00:1::/32,10.1.0.0/16,10.2.0.0/16",
    option.OUTBOUND_PORTS: "9200,9300-9400",
}


class TestOutboundDestinations:
    def test_exclusions_then_ports_then_networks(self) -> None:
        assert destinations(SOME_DESTINATIONS) == lines("""
            to 127.0.0.1                -> return
            to 10.1.0.0/16              -> return
            to 10.2.0.0/16              -> return
            tcp & port 9200             -> ISTIO_REDIRECT
            tcp & port 9300-9400        -> ISTIO_REDIRECT
            to 10.0.0.0/8               -> ISTIO_REDIRECT
            to 172.16.0.0/12            -> ISTIO_REDIRECT
        """)

    def test_each_family_has_its_own_networks(self) -> None:
        assert destinations(SOME_DESTINATIONS, "ipv6") == lines("""
            to ::1                      -> return
            to fd00:1::/32              -> return
            tcp & port 9200             -> ISTIO_REDIRECT
            tcp & port 9300-9400        -> ISTIO_REDIRECT
            to fd00::/8                 -> ISTIO_REDIRECT
        """)

    def test_everything_but_the_excluded_networks(self) -> None:
        assert destinations({option.EXCLUDED_OUTBOUND_NETWORKS: "10.1.2.3,10.9.8.7/24"}) == lines("""
            to 127.0.0.1                -> return
            to 10.1.2.3                 -> return
            to 10.9.8.0/24              -> return
            any                         -> ISTIO_REDIRECT
        """)

    def test_ports_are_captured_without_networks(self) -> None:
        assert destinations({option.OUTBOUND_NETWORKS: "", option.OUTBOUND_PORTS: "31000,32000"}) == lines("""
            to 127.0.0.1                -> return
            tcp & port 31000            -> ISTIO_REDIRECT
            tcp & port 32000            -> ISTIO_REDIRECT
        """)

    def test_excluded_ports_come_first_of_all_for_tcp_and_udp(self) -> None:
        """Before the rules for the proxy, so that the pod's calls to itself are left alone as well."""
        rules = nat("ISTIO_OUTPUT", {option.EXCLUDED_OUTBOUND_PORTS: "15020,9000-9010"})
        assert rules[:5] == lines("""
            tcp & port 15020            -> return
            udp & port 15020            -> return
            tcp & port 9000-9010        -> return
            udp & port 9000-9010        -> return
            from 127.0.0.6 & out lo     -> return
        """)

    def test_excluded_ports_of_users_come_next(self) -> None:
        texts = {option.EXCLUDED_OUTBOUND_PORTS: "15020", option.UID_PORT_EXCLUSIONS: "tcp:443:1000-2000,udp:*:0"}
        assert nat("ISTIO_OUTPUT", texts)[:5] == lines("""
            tcp & port 15020                        -> return
            udp & port 15020                        -> return
            tcp & port 443 & uid 1000-2000          -> return
            udp & port 1-65535 & uid 0              -> return
            from 127.0.0.6 & out lo                 -> return
        """)


class TestProxyIdentity:
    def test_each_uid_then_each_gid(self) -> None:
        texts = {option.PROXY_UID: "3,4", option.PROXY_GID: "1,2", option.OUTBOUND_NETWORKS: ""}
        assert nat("ISTIO_OUTPUT", texts) == lines("""
            from 127.0.0.6 & out lo                                         -> return
            not to 127.0.0.1 & out lo & tcp & not port 15008 & uid 3        -> ISTIO_IN_REDIRECT
            out lo & not uid 3                                              -> return
            uid 3                                                           -> return
            not to 127.0.0.1 & out lo & tcp & not port 15008 & uid 4        -> ISTIO_IN_REDIRECT
            out lo & not uid 4                                              -> return
            uid 4                                                           -> return
            not to 127.0.0.1 & out lo & tcp & not port 15008 & gid 1        -> ISTIO_IN_REDIRECT
            out lo & not gid 1                                              -> return
            gid 1                                                           -> return
            not to 127.0.0.1 & out lo & tcp & not port 15008 & gid 2        -> ISTIO_IN_REDIRECT
            out lo & not gid 2                                              -> return
            gid 2                                                           -> return
            to 127.0.0.1                                                    -> return
        """)

    def test_ranges_of_ids_are_one_rule_each(self) -> None:
        rules = nat("ISTIO_OUTPUT", {option.PROXY_UID: "1000-1999", option.PROXY_GID: "0"}, "classic")
        assert rules[1:4] == lines("""
            not to 127.0.0.1 & out lo & uid 1000-1999       -> ISTIO_IN_REDIRECT
            out lo & not uid 1000-1999                      -> return
            uid 1000-1999                                   -> return
        """)

    @pytest.mark.parametrize("profile", PROFILES)
    @pytest.mark.parametrize("networks", ["127.0.0.0/8", "127.0.0.1", "10.0.0.0/8,127.1.0.0/16", "::1"])
    def test_loopback_that_is_captured_by_name_is_not_let_through(self, profile: str, networks: str) -> None:
        """In both families, even if only one of them names its loopback."""
        for family in ("ipv4", "ipv6"):
            rules = nat("ISTIO_OUTPUT", {option.OUTBOUND_NETWORKS: networks}, profile, family)
            assert [rule for rule in rules if rule.startswith("out lo")] == []
            assert "uid 1337 -> return" in rules

    @pytest.mark.parametrize("networks", ["*", "", "0.0.0.0/0", "10.0.0.0/8", "::/0"])
    def test_other_networks_leave_the_loopback_rules(self, networks: str) -> None:
        rules = nat("ISTIO_OUTPUT", {option.OUTBOUND_NETWORKS: networks})
        assert "out lo & not uid 1337 -> return" in rules
        assert "out lo & not gid 1337 -> return" in rules

    def test_loopback_network_of_the_pod(self) -> None:
        texts = {option.IPV4_LOOPBACK: "127.0.0.0/8", option.OUTBOUND_NETWORKS: ""}
        rules = nat("ISTIO_OUTPUT", texts)
        assert rules[1] == "not to 127.0.0.0/8 & out lo & tcp & not port 15008 & uid 1337 -> ISTIO_IN_REDIRECT"
        assert rules[-1] == "to 127.0.0.0/8 -> return"
        assert nat("ISTIO_OUTPUT", texts, family="ipv6")[-1] == "to ::1 -> return"


class TestOwnerGroups:
    POD = FakePod(groups={"java": 202})

    def groups(self, texts: Texts) -> list[str]:
        """Return what is between the rules for the proxy and the one for localhost."""
        rules = nat("ISTIO_OUTPUT", texts, pod=self.POD)
        return rules[rules.index("gid 1337 -> return") + 1 : rules.index("to 127.0.0.1 -> return")]

    def test_by_default_groups_need_no_rule(self) -> None:
        assert self.groups({}) == []

    def test_excluded_groups_return(self) -> None:
        assert self.groups({option.EXCLUDED_OWNER_GROUPS: "java,5-9"}) == lines("""
            gid 202     -> return
            gid 5-9     -> return
        """)

    def test_other_groups_than_the_included_return(self) -> None:
        """One rule, because it must hold that the group is none of them."""
        assert self.groups({option.OWNER_GROUPS: "java,7"}) == lines("not gid 202,7 -> return")

    def test_an_empty_list_of_groups_returns_all(self) -> None:
        assert self.groups({option.OWNER_GROUPS: ""}) == lines("any -> return")


class TestInterfaces:
    def test_interfaces_are_excluded_both_ways(self) -> None:
        texts = {option.EXCLUDED_INTERFACES: "eth1,net+"}
        assert nat("PREROUTING", texts) == lines("""
            in eth1     -> return
            in net+     -> return
            tcp         -> ISTIO_INBOUND
        """)
        assert nat("OUTPUT", texts) == lines("""
            out eth1    -> return
            out net+    -> return
            any         -> ISTIO_OUTPUT
        """)

    def test_virtual_machines_all_destinations(self) -> None:
        """The last one named comes first, and all of them before the interfaces that are left alone."""
        texts = {option.REROUTED_INTERFACES: "net0,net1", option.EXCLUDED_INTERFACES: "eth1"}
        assert nat("PREROUTING", texts) == lines("""
            in net1     -> ISTIO_REDIRECT
            in net0     -> ISTIO_REDIRECT
            in net1     -> return
            in net0     -> return
            in eth1     -> return
            tcp         -> ISTIO_INBOUND
        """)

    def test_virtual_machines_some_destinations(self) -> None:
        texts = {option.REROUTED_INTERFACES: "net0,net1", option.OUTBOUND_NETWORKS: "10.0.0.0/8,fd00::/8,192.0.2.0/24"}
        assert nat("PREROUTING", texts) == lines("""
            to 192.0.2.0/24 & in net1   -> ISTIO_REDIRECT
            to 192.0.2.0/24 & in net0   -> ISTIO_REDIRECT
            to 10.0.0.0/8 & in net1     -> ISTIO_REDIRECT
            to 10.0.0.0/8 & in net0     -> ISTIO_REDIRECT
            in net1                     -> return
            in net0                     -> return
            tcp                         -> ISTIO_INBOUND
        """)
        assert nat("PREROUTING", texts, family="ipv6")[:3] == lines("""
            to fd00::/8 & in net1       -> ISTIO_REDIRECT
            to fd00::/8 & in net0       -> ISTIO_REDIRECT
            in net1                     -> return
        """)

    def test_virtual_machines_no_destination(self) -> None:
        texts = {option.REROUTED_INTERFACES: "net0", option.OUTBOUND_NETWORKS: "", option.INBOUND_PORTS: ""}
        assert nat("PREROUTING", texts) == lines("in net0 -> return")


CAPTURED: Texts = {option.REDIRECT_DNS: "true"}
ALL: Texts = {option.REDIRECT_DNS: "true", option.CAPTURE_ALL_DNS: "true"}


class TestDns:
    BOTH = FakePod(servers=("10.96.0.10", "fd00::a", "10.96.0.11"))
    IPV4_ONLY = FakePod(servers=("10.96.0.10",))
    IPV6_ONLY = FakePod(servers=("fd00::a",))
    NONE = FakePod(servers=())

    def test_servers_tcp_before_udp(self) -> None:
        assert nat("ISTIO_OUTPUT_DNS", CAPTURED, pod=self.BOTH) == lines("""
            to 10.96.0.10 & tcp & port 53       -> redirect 15053
            to 10.96.0.11 & tcp & port 53       -> redirect 15053
            to 10.96.0.10 & udp & port 53       -> redirect 15053
            to 10.96.0.11 & udp & port 53       -> redirect 15053
        """)
        assert nat("ISTIO_OUTPUT_DNS", CAPTURED, family="ipv6", pod=self.BOTH) == lines("""
            to fd00::a & tcp & port 53          -> redirect 15053
            to fd00::a & udp & port 53          -> redirect 15053
        """)

    @pytest.mark.parametrize("family", ["ipv4", "ipv6"])
    def test_all_dns_goes_to_the_agent(self, family: Family) -> None:
        assert nat("ISTIO_OUTPUT_DNS", ALL, family=family, pod=self.NONE) == lines("""
            tcp & port 53       -> redirect 15053
            udp & port 53       -> redirect 15053
        """)
        assert "any -> ISTIO_OUTPUT_DNS" in nat("ISTIO_OUTPUT", ALL, family=family, pod=self.NONE)

    def test_the_outbound_chain_current(self) -> None:
        """DNS of the proxy goes out; DNS over lo comes as far as the jump, which comes after the groups."""
        texts = {**CAPTURED, option.EXCLUDED_OWNER_GROUPS: "9", option.EXCLUDED_OUTBOUND_PORTS: "15020"}
        assert nat("ISTIO_OUTPUT", texts, pod=self.BOTH) == lines("""
            tcp & port 15020                                                    -> return
            udp & port 15020                                                    -> return
            from 127.0.0.6 & out lo                                             -> return
            not to 127.0.0.1 & out lo & tcp & not port 53,15008 & uid 1337      -> ISTIO_IN_REDIRECT
            out lo & tcp & not port 53 & not uid 1337                           -> return
            uid 1337                                                            -> return
            not to 127.0.0.1 & out lo & tcp & not port 15008 & gid 1337         -> ISTIO_IN_REDIRECT
            out lo & tcp & not port 53 & not gid 1337                           -> return
            gid 1337                                                            -> return
            gid 9                                                               -> return
            any                                                                 -> ISTIO_OUTPUT_DNS
            to 127.0.0.1                                                        -> return
            any                                                                 -> ISTIO_REDIRECT
        """)

    def test_the_outbound_chain_classic(self) -> None:
        assert nat("ISTIO_OUTPUT", CAPTURED, "classic", pod=self.BOTH) == lines("""
            from 127.0.0.6 & out lo                                             -> return
            not to 127.0.0.1 & out lo & tcp & not port 53 & uid 1337            -> ISTIO_IN_REDIRECT
            out lo & tcp & not port 53 & not uid 1337                           -> return
            uid 1337                                                            -> return
            not to 127.0.0.1 & out lo & gid 1337                                -> ISTIO_IN_REDIRECT
            out lo & tcp & not port 53 & not gid 1337                           -> return
            gid 1337                                                            -> return
            any                                                                 -> ISTIO_OUTPUT_DNS
            to 127.0.0.1                                                        -> return
            any                                                                 -> ISTIO_REDIRECT
        """)

    @pytest.mark.parametrize("family", ["ipv4", "ipv6"])
    def test_classic_sends_udp_to_our_chain_only_for_dns(self, family: Family) -> None:
        assert nat("OUTPUT", CAPTURED, "classic", family, self.BOTH) == lines("""
            tcp                 -> ISTIO_OUTPUT
            udp & port 53       -> ISTIO_OUTPUT
        """)
        assert nat("OUTPUT", CAPTURED, "current", family, self.BOTH) == lines("any -> ISTIO_OUTPUT")

    @pytest.mark.parametrize(
        ("pod", "with_jump", "without"), [(IPV4_ONLY, "ipv4", "ipv6"), (IPV6_ONLY, "ipv6", "ipv4")]
    )
    def test_servers_of_one_family(self, pod: FakePod, with_jump: Family, without: Family) -> None:
        """The other family has no DNS rules and no jump to them; over lo it behaves the same."""
        jump = "any -> ISTIO_OUTPUT_DNS"
        assert jump in nat("ISTIO_OUTPUT", CAPTURED, family=with_jump, pod=pod)
        assert jump not in nat("ISTIO_OUTPUT", CAPTURED, family=without, pod=pod)
        assert nat("ISTIO_OUTPUT_DNS", CAPTURED, family=without, pod=pod) == []
        assert "out lo & tcp & not port 53 & not uid 1337 -> return" in nat(
            "ISTIO_OUTPUT", CAPTURED, family=without, pod=pod
        )

    @pytest.mark.parametrize("profile", PROFILES)
    def test_no_server_means_no_dns_capture(self, profile: str) -> None:
        for chain in ("OUTPUT", "ISTIO_OUTPUT", "ISTIO_OUTPUT_DNS"):
            assert nat(chain, CAPTURED, profile, pod=self.NONE) == nat(chain, {}, profile, pod=self.NONE)

    def test_tunnel_on_the_port_of_dns(self) -> None:
        rules = nat("ISTIO_OUTPUT", {**ALL, option.INBOUND_TUNNEL_PORT: "53"})
        assert rules[1] == "not to 127.0.0.1 & out lo & tcp & not port 53,53 & uid 1337 -> ISTIO_IN_REDIRECT"


TRANSPARENT: Texts = {
    option.INTERCEPTION_MODE: "TPROXY",
    option.EXCLUDED_INTERFACES: "eth1",
    option.EXCLUDED_INBOUND_NETWORKS: "192.0.2.0/24",
}


class TestTransparent:
    @pytest.mark.parametrize("profile", PROFILES)
    def test_inbound_is_the_mangle_table_s_then(self, profile: str) -> None:
        """The tunnel's rule stays, unused, and so do the chains: upstream prints them too."""
        assert nat("PREROUTING", TRANSPARENT, profile) == lines("in eth1 -> return")
        assert nat("ISTIO_INBOUND", TRANSPARENT, profile) == lines("tcp & port 15008 -> return")
        assert nat("ISTIO_IN_REDIRECT", TRANSPARENT, profile) == lines("tcp -> redirect 15006")

    @pytest.mark.parametrize("profile", PROFILES)
    def test_outbound_is_as_ever(self, profile: str) -> None:
        assert nat("ISTIO_OUTPUT", TRANSPARENT, profile) == nat("ISTIO_OUTPUT", {}, profile)

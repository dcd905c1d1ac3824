"""From settings to the configuration: names, families, name servers, limits, warnings."""

from __future__ import annotations

import pytest

from capture.errors import ConfigurationError
from capture.model.addresses import parse_address, parse_network
from capture.model.ruleset import Span, only
from capture.settings import options as option
from capture.settings.config import MAX_OWNER_GROUPS, CaptureConfig, resolve
from capture.settings.parsers import Selection, UidPorts
from support.captures.fake_pod import POD, FakePod, config_of, explicit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.model.addresses import Family, Network
    from support.captures.fake_pod import Texts

BOTH: tuple[Family, ...] = ("ipv4", "ipv6")
ISTIO = FakePod(users={"istio-proxy": 1400, "envoy": 1500, "app": 1000}, groups={"istio-proxy": 2400, "java": 202})


def warnings_of(texts: Texts, pod: FakePod = POD) -> list[str]:
    return resolve(explicit(texts), pod)[1]


def test_nothing_given_in_any_pod() -> None:
    assert resolve(explicit({}), POD) == (CaptureConfig(), [])


def test_the_reason_for_the_families_makes_no_other_configuration() -> None:
    assert CaptureConfig(families_decided_by="the mesh") == CaptureConfig()
    assert CaptureConfig(families=("ipv4",)) != CaptureConfig()


def test_every_option_reaches_the_configuration() -> None:
    pod = FakePod(servers=("10.96.0.10",), groups={"java": 202})
    texts: Texts = {
        option.PROXY_PORT: "16001",
        option.INBOUND_CAPTURE_PORT: "16006",
        option.INBOUND_TUNNEL_PORT: "16008",
        option.PROXY_UID: "3,5-6",
        option.PROXY_GID: "7",
        option.INTERCEPTION_MODE: "TPROXY",
        option.INBOUND_PORTS: "80,8000-8100",
        option.EXCLUDED_INBOUND_PORTS: "9090",
        option.EXCLUDED_INBOUND_NETWORKS: "192.0.2.0/24",
        option.EXCLUDED_INTERFACES: "eth1",
        option.OUTBOUND_NETWORKS: "10.0.0.0/8,fd00::/8",
        option.EXCLUDED_OUTBOUND_NETWORKS: "10.1.0.0/16",
        option.OUTBOUND_PORTS: "9200",
        option.EXCLUDED_OUTBOUND_PORTS: "15020",
        option.UID_PORT_EXCLUSIONS: "tcp:443:0",
        option.REROUTED_INTERFACES: "net1",
        option.OWNER_GROUPS: "java",
        option.IPV4_LOOPBACK: "127.0.0.0/8",
        option.TPROXY_MARK: "7",
        option.TPROXY_ROUTE_TABLE: "200",
        option.REDIRECT_DNS: "true",
        option.DROP_INVALID: "true",
        option.RULE_COMMENTS: "true",
        option.RULE_LOGS: "true",
        option.PROFILE: "current",
        option.CHAIN_NAMES: "dash",
    }
    assert resolve(explicit(texts), pod) == (
        CaptureConfig(
            families=BOTH,
            profile="1.30",
            chain_names="dash",
            proxy_port=16001,
            inbound_capture_port=16006,
            inbound_tunnel_port=16008,
            proxy_uids=(only(3), Span(5, 6)),
            proxy_gids=(only(7),),
            mode="TPROXY",
            tproxy_mark=7,
            tproxy_route_table=200,
            inbound_ports=Selection((only(80), Span(8000, 8100))),
            excluded_inbound_ports=(only(9090),),
            excluded_inbound_networks=(parse_network("192.0.2.0/24"),),
            excluded_interfaces=("eth1",),
            outbound_networks=Selection((parse_network("10.0.0.0/8"), parse_network("fd00::/8"))),
            excluded_outbound_networks=(parse_network("10.1.0.0/16"),),
            outbound_ports=(only(9200),),
            excluded_outbound_ports=(only(15020),),
            uid_port_exclusions=(UidPorts("tcp", (only(443),), (only(0),)),),
            rerouted_interfaces=("net1",),
            owner_groups=Selection((only(202),)),
            ipv4_loopback=parse_network("127.0.0.0/8"),
            captures_dns=True,
            name_servers=(parse_address("10.96.0.10"),),
            drops_invalid=True,
            rule_comments=True,
            rule_logs=True,
        ),
        [],
    )
    assert config_of({option.INTERCEPTION_MODE: "TPROXY"}).is_transparent
    assert not config_of({option.INTERCEPTION_MODE: "REDIRECT"}).is_transparent


class TestUsersAndGroups:
    @pytest.mark.parametrize(
        ("texts", "pod", "uids", "gids"),
        [
            ({}, POD, [1337], [1337]),
            ({}, ISTIO, [1400], [1400]),
            ({}, FakePod(users={"envoy": 1500}, proxy_user="envoy"), [1500], [1500]),
            ({}, FakePod(users={"istio-proxy": 1400}, proxy_user="envoy"), [1337], [1337]),
            ({option.PROXY_UID: ""}, ISTIO, [1400], [1400]),
            ({option.PROXY_UID: "", option.PROXY_GID: ""}, POD, [1337], [1337]),
            ({option.PROXY_UID: "5,app"}, ISTIO, [5, 1000], [5, 1000]),
            ({option.PROXY_GID: "java,7"}, ISTIO, [1400], [202, 7]),
            ({option.PROXY_UID: "0", option.PROXY_GID: "0"}, ISTIO, [0], [0]),
            ({option.PROXY_UID: "istio-proxy", option.PROXY_GID: "istio-proxy"}, ISTIO, [1400], [2400]),
            ({option.PROXY_UID: " , "}, POD, [1337], [1337]),
        ],
    )
    def test_names_of_the_proxy_become_ids(self, texts: Texts, pod: FakePod, uids: list[int], gids: list[int]) -> None:
        config = config_of(texts, pod)
        assert config.proxy_uids == tuple(map(only, uids))
        assert config.proxy_gids == tuple(map(only, gids))

    @pytest.mark.parametrize(
        ("which", "text", "wrong", "expected"),
        [
            (option.PROXY_UID, "5,no-such-name", "no-such-name", "no user of that name is known here"),
            (option.PROXY_GID, "no-such-name", "no-such-name", "no group of that name is known here"),
            (option.PROXY_GID, "app", "app", "no group of that name is known here"),
            (option.OWNER_GROUPS, "java,nogroup", "nogroup", "no group of that name is known here"),
            (option.EXCLUDED_OWNER_GROUPS, "nogroup", "nogroup", "no group of that name is known here"),
        ],
    )
    def test_a_name_that_no_user_has(self, which: option.Option[object], text: str, wrong: str, expected: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            config_of({which: text}, ISTIO)
        assert (caught.value.option, caught.value.value) == (which.name, wrong)
        assert expected in caught.value.expected


class TestOwnerGroups:
    def test_all_is_the_default(self) -> None:
        config = config_of({})
        assert (config.owner_groups, config.excluded_owner_groups) == (Selection(is_everything=True), ())

    def test_excluded_groups_are_looked_up(self) -> None:
        assert config_of({option.EXCLUDED_OWNER_GROUPS: "java,5-9"}, ISTIO).excluded_owner_groups == (
            only(202),
            Span(5, 9),
        )

    def test_included_groups_are_looked_up(self) -> None:
        assert config_of({option.OWNER_GROUPS: "java,7"}, ISTIO).owner_groups == Selection((only(202), only(7)))

    def test_an_empty_list_selects_no_group(self) -> None:
        assert config_of({option.OWNER_GROUPS: ""}).owner_groups == Selection()

    def test_more_groups_than_fit_into_one_rule_are_refused(self) -> None:
        texts = [",".join(map(str, range(count))) for count in (MAX_OWNER_GROUPS, MAX_OWNER_GROUPS + 1)]
        assert len(config_of({option.OWNER_GROUPS: texts[0]}).owner_groups.entries) == 64
        with pytest.raises(ConfigurationError, match="expected at most 64 groups"):
            config_of({option.OWNER_GROUPS: texts[1]})

    def test_excluded_groups_have_no_limit(self) -> None:
        groups = ",".join(map(str, range(100)))
        assert len(config_of({option.EXCLUDED_OWNER_GROUPS: groups}).excluded_owner_groups) == 100

    def test_some_and_all_but_some_contradict_each_other(self) -> None:
        with pytest.raises(ConfigurationError, match="ISTIO_OUTBOUND_OWNER_GROUPS names") as caught:
            config_of({option.OWNER_GROUPS: "5", option.EXCLUDED_OWNER_GROUPS: "6"})
        assert caught.value.option == "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"


class TestProfile:
    @pytest.mark.parametrize(
        ("profile", "names", "expected"),
        [
            ("", "", ("1.8", "dash")),
            ("1.8", "", ("1.8", "dash")),
            ("1.30", "", ("1.30", "underscore")),
            ("classic", "", ("1.8", "dash")),
            ("current", "", ("1.30", "underscore")),
            ("classic", "underscore", ("1.8", "underscore")),
            ("current", "dash", ("1.30", "dash")),
        ],
    )
    def test_profile_decides_on_the_spelling_unless_it_is_given(
        self, profile: str, names: str, expected: tuple[str, str]
    ) -> None:
        config = config_of({option.PROFILE: profile, option.CHAIN_NAMES: names})
        assert (config.profile, config.chain_names) == expected


class TestDns:
    POD = FakePod(servers=("10.96.0.10", "fd00::a"))
    SERVERS = (parse_address("10.96.0.10"), parse_address("fd00::a"))
    NO_SERVER = (
        "--redirect-dns: no server is known (resolv.conf, which only a run in the pod reads, names none),"
        " so DNS is not captured; use --capture-all-dns to capture all of it"
    )
    ALL_WITHOUT = "--capture-all-dns true (command line) has no effect without --redirect-dns"

    @pytest.mark.parametrize(
        ("redirect", "everything", "pod", "captured", "all_captured", "servers", "warnings"),
        [
            ("false", "false", POD, False, False, (), []),
            ("true", "false", POD, True, False, SERVERS, []),
            ("true", "true", POD, True, True, (), []),
            ("false", "true", POD, False, False, (), [ALL_WITHOUT]),
            ("true", "false", FakePod(), False, False, (), [NO_SERVER]),
            ("true", "true", FakePod(), True, True, (), []),
        ],
    )
    def test_the_servers_decide_on_the_captured_dns(
        self,
        redirect: str,
        everything: str,
        pod: FakePod,
        captured: object,
        all_captured: object,
        servers: tuple[object, ...],
        warnings: list[str],
    ) -> None:
        texts: Texts = {option.REDIRECT_DNS: redirect, option.CAPTURE_ALL_DNS: everything}
        config, warnings_about_it = resolve(explicit(texts), pod)
        assert (config.captures_dns, config.captures_all_dns, config.name_servers) == (captured, all_captured, servers)
        assert warnings_about_it == warnings

    def test_resolv_conf_is_not_read_without_need(self) -> None:
        reads = []

        class Read(FakePod):
            def name_servers(self) -> tuple[Network, ...]:
                reads.append(self)
                return super().name_servers()

        resolve(explicit({}), Read())
        resolve(explicit({option.REDIRECT_DNS: "true", option.CAPTURE_ALL_DNS: "true"}), Read())
        assert reads == []
        resolve(explicit({option.REDIRECT_DNS: "true"}), Read())
        assert len(reads) == 1


def test_networks_with_host_bits_are_warned_of() -> None:
    texts: Texts = {option.OUTBOUND_NETWORKS: "10.1.2.3/8", option.CAPTURE_ALL_DNS: "true"}
    assert warnings_of(texts) == [
        "--istio-service-cidr (command line): 10.1.2.3/8 has host bits set, and is taken as 10.0.0.0/8",
        TestDns.ALL_WITHOUT,
    ]
    assert config_of(texts).outbound_networks == Selection((parse_network("10.0.0.0/8"),))


@pytest.mark.parametrize("which", option.RULE_OPTIONS, ids=lambda which: which.name)
def test_a_bad_rule_option_never_resolves(which: option.Option[object]) -> None:
    """Also where nothing would use it: a mark that is no number is wrong in REDIRECT mode, too."""
    with pytest.raises(ConfigurationError) as caught:
        resolve(explicit({which: "\n"}), POD)
    assert caught.value.option == which.name

"""The option table, and values: precedence, emptiness, origins, errors."""

from __future__ import annotations

import re

import pytest

from capture.errors import EXIT_USAGE, ConfigurationError
from capture.settings import options
from capture.settings.options import BACKEND_OPTIONS, INIT_OPTIONS, NETWORK_OPTIONS, OPTIONS, RULE_OPTIONS, Option
from capture.settings.parsers import Selection
from capture.settings.settings import (
    ExplicitValue,
    Settings,
    from_environment,
    host_bits_warnings,
    require_settings,
    with_flags,
)
from support.captures.fake_pod import explicit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SHORT_FLAGS = """
    p envoy-port                        15001
    z inbound-capture-port              15006
    e inbound-tunnel-port               15008
    u proxy-uid
    g proxy-gid
    m istio-inbound-interception-mode   REDIRECT
    b istio-inbound-ports               *
    d istio-local-exclude-ports         15090,15021,15020
    c istio-exclude-interfaces
    i istio-service-cidr                *
    x istio-service-exclude-cidr
    q istio-outbound-ports
    o istio-local-outbound-ports-exclude
    k kube-virt-interfaces
    t istio-inbound-tproxy-mark         1337
    r istio-inbound-tproxy-route-table  133
    n dry-run                           false
"""

SWITCHES = """
    --redirect-dns --capture-all-dns --drop-invalid --dual-stack --cni-mode --reconcile --cleanup-only --force-apply
    --native-nftables --dry-run --skip-rule-apply --run-validation --allow-host --rule-comments --rule-logs
    --log_as_json --require-proof --probe-from-outside
"""


CONTROL_CHARACTERS = ("\n", "\r", "\t", "\0", "\x1b", "\x7f", "\u2028", "\u202e", "\u00a0", "\ud800")


class TestTable:
    def test_short_flags_names_and_defaults_are_upstream_s(self) -> None:
        expected = {line.split()[0]: [*line.split(), ""][1:3] for line in SHORT_FLAGS.strip().splitlines()}
        assert {option.short: [option.flag, option.default] for option in OPTIONS if option.short} == expected

    def test_switches_are_off_by_default(self) -> None:
        assert {option.name for option in OPTIONS if option.is_switch} == set(SWITCHES.split())
        assert {option.default for option in OPTIONS if option.is_switch} == {"false"}

    def test_every_option_is_in_one_group(self) -> None:
        """All that the module defines, each once."""
        defined = [value for value in vars(options).values() if isinstance(value, Option)]
        assert sorted(option.name for option in OPTIONS) == sorted(option.name for option in defined)
        assert len(set(OPTIONS)) == len(OPTIONS) == len(RULE_OPTIONS) + len(BACKEND_OPTIONS) + len(INIT_OPTIONS)

    @pytest.mark.parametrize(
        "names", [lambda o: [o.name], lambda o: [o.short] if o.short else [], lambda o: o.variables]
    )
    def test_no_name_is_used_twice(self, names: Any) -> None:
        used = [name for option in OPTIONS for name in names(option)]
        assert len(used) == len(set(used))

    @pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
    def test_each_option_is_complete(self, option: Option[Any]) -> None:
        option.parse(option.default)
        assert option.flag or option.environment
        assert option.expected
        assert option.help.endswith((".", "1337."))
        assert option.is_switch != bool(option.metavar), "a switch takes no value, everything else takes one"
        assert f"{option.name}={option.default}".isprintable()
        assert all(option.parse(word) and word in option.expected for word in option.choices)

    @pytest.mark.parametrize(
        ("option", "variables"),
        [
            (options.PROXY_PORT, ("ENVOY_PORT",)),
            (options.INBOUND_PORTS, ("ISTIO_INBOUND_PORTS",)),
            (options.REDIRECT_DNS, ("REDIRECT_DNS", "ISTIO_META_DNS_CAPTURE")),
            (options.DROP_INVALID, ("DROP_INVALID", "INVALID_DROP")),
            (options.DUAL_STACK, ("DUAL_STACK", "ISTIO_AGENT_DUAL_STACK", "ISTIO_DUAL_STACK")),
            (options.OWNER_GROUPS, ("ISTIO_OUTBOUND_OWNER_GROUPS",)),
            (options.PROFILE, ("CAPTURE_PROFILE",)),
        ],
    )
    def test_options_have_the_variables_of_upstream(self, option: Option[Any], variables: tuple[str, ...]) -> None:
        assert option.variables == variables


class TestPrecedence:
    def test_default_then_environment_then_flag(self) -> None:
        option = options.PROXY_PORT
        nothing = from_environment({})
        environment = from_environment({"ENVOY_PORT": "16001", "PATH": "/bin"})
        flag = with_flags(environment, {option: "17001"})
        assert [each[option] for each in (nothing, environment, flag)] == [15001, 16001, 17001]
        assert [each.origin(option) for each in (nothing, environment, flag)] == [
            "default",
            "environment ENVOY_PORT",
            "command line",
        ]

    def test_an_empty_flag_beats_the_environment(self) -> None:
        environment = from_environment({"ISTIO_SERVICE_EXCLUDE_CIDR": "10.0.0.0/8"})
        assert (
            with_flags(environment, {options.EXCLUDED_OUTBOUND_NETWORKS: ""})[options.EXCLUDED_OUTBOUND_NETWORKS] == ()
        )

    def test_what_is_no_settings_is_named_with_what_makes_them(self) -> None:
        settings = Settings({})
        assert require_settings(settings, "apply") is settings
        with pytest.raises(ConfigurationError, match=r"^apply\(\) .*\{'port': 1\}.*make_settings\(\)"):
            require_settings({"port": 1}, "apply")

    def test_an_option_is_known_by_its_flag_or_its_variables(self) -> None:
        one, other = (
            Option("flag", text, parse, text, text, text, ("VARIABLE",), (text,), text, text, is_switch, is_switch)
            for text, is_switch, parse in (("a", True, str), ("b", False, repr))
        )
        assert one == other
        assert one != one.replace(flag="other")
        assert one != one.replace(environment=())

    def test_flags_leave_other_options_alone(self) -> None:
        environment = from_environment({"ISTIO_INBOUND_PORTS": "80"})
        flags = with_flags(environment, {options.PROXY_PORT: "17001"})
        assert flags.text(options.INBOUND_PORTS) == "80"
        assert environment.text(options.PROXY_PORT) == "15001"

    @pytest.mark.parametrize(
        ("environ", "value", "origin"),
        [
            ({"REDIRECT_DNS": "true", "ISTIO_META_DNS_CAPTURE": "0"}, False, "environment ISTIO_META_DNS_CAPTURE"),
            ({"ISTIO_META_DNS_CAPTURE": "T"}, True, "environment ISTIO_META_DNS_CAPTURE"),
            ({"REDIRECT_DNS": "true", "ISTIO_META_DNS_CAPTURE": ""}, True, "environment REDIRECT_DNS"),
            ({"REDIRECT_DNS": "true", "ISTIO_META_DNS_CAPTURE": "no"}, True, "environment REDIRECT_DNS"),
            ({}, False, "default"),
        ],
    )
    def test_of_several_variables_the_last_one_that_can_be_read_counts(
        self, environ: dict[str, str], value: object, origin: str
    ) -> None:
        found = from_environment(environ)
        assert found[options.REDIRECT_DNS] is value
        assert found.origin(options.REDIRECT_DNS) == origin

    @pytest.mark.parametrize(
        ("option", "text"),
        [
            *((option, "yes") for option in OPTIONS if option.is_switch),
            *((options.REDIRECT_DNS, text) for text in ("on", "TrUe", "2", "enabled", " true")),
        ],
        ids=lambda value: getattr(value, "name", value),
    )
    def test_a_truth_value_that_cannot_be_read_is_warned_of(self, option: Option[bool], text: str) -> None:
        variable = option.variables[-1]
        found = from_environment({variable: text})
        assert found == from_environment({})
        (warning,) = with_flags(found, {options.PROXY_PORT: "1"}).warnings
        assert warning.startswith(f"environment {variable}: {text!r} is ignored: ")
        with pytest.raises(ConfigurationError):
            with_flags(found, {option: text}).checked()

    def test_the_variables_of_a_service_are_no_setting(self) -> None:
        found = from_environment({"ENVOY_PORT": "tcp://10.0.0.1:80", "INBOUND_TUNNEL_PORT": "udp://[fd00::1]:53"})
        assert found.checked() == from_environment({})
        assert [warning.split(":")[0] for warning in found.warnings] == [
            "environment ENVOY_PORT",
            "environment INBOUND_TUNNEL_PORT",
        ]

    def test_a_misspelt_variable_of_our_own_is_named_with_the_one_that_is_meant(self) -> None:
        found = from_environment({"CAPTURE_PROFIL": "current", "CAPTURE_AGENT_SOCKET": "/s", "PROFILE": "1.8"})
        assert found.warnings == ("environment CAPTURE_PROFIL has no effect; did you mean CAPTURE_PROFILE?",)

    def test_only_the_requested_options_are_looked_up(self) -> None:
        found = from_environment({"ENVOY_PORT": "1", "DRY_RUN": "true"}, RULE_OPTIONS)
        assert set(found.explicit) == {options.PROXY_PORT}

    def test_another_value_replaces_the_first_and_has_its_own_origin(self) -> None:
        before = explicit({options.PROXY_PORT: "1"})
        after = before.with_option(options.PROXY_PORT, "2", "somewhere")
        assert (before[options.PROXY_PORT], after[options.PROXY_PORT]) == (1, 2)
        assert after.origin(options.PROXY_PORT) == "somewhere"


class TestEmpty:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            (options.INBOUND_PORTS, Selection()),
            (options.OUTBOUND_NETWORKS, Selection()),
            (options.OWNER_GROUPS, Selection()),
            (options.EXCLUDED_INBOUND_PORTS, ()),
            (options.EXCLUDED_OUTBOUND_NETWORKS, ()),
            (options.EXCLUDED_INTERFACES, ()),
            (options.REROUTED_INTERFACES, ()),
            (options.OUTBOUND_PORTS, ()),
        ],
    )
    def test_an_empty_list_is_none(self, option: Option[Any], value: object) -> None:
        assert explicit({option: ""})[option] == value

    @pytest.mark.parametrize(
        "option",
        [each for each in OPTIONS if re.fullmatch("[a-zA-Z]*|1.8|default:info", each.default) and not each.is_switch],
        ids=lambda option: option.name,
    )
    def test_a_word_is_its_default(self, option: Option[Any]) -> None:
        assert explicit({option: ""}).text(option) == option.default

    @pytest.mark.parametrize(
        "option", [option for option in OPTIONS if option.is_switch], ids=lambda option: option.name
    )
    def test_a_switch_is_off(self, option: Option[bool]) -> None:
        assert explicit({option: ""})[option] is False
        assert explicit({option: "true"})[option] is True

    @pytest.mark.parametrize(
        "option",
        [
            options.PROXY_PORT,
            options.INBOUND_CAPTURE_PORT,
            options.TPROXY_MARK,
            options.IPV4_LOOPBACK,
            options.PROBE_TIMEOUT,
        ],
    )
    def test_an_empty_list_for_a_single_value_is_an_error(self, option: Option[Any]) -> None:
        with pytest.raises(ConfigurationError, match="invalid value ''"):
            explicit({option: ""})[option]


class TestErrors:
    def test_an_error_names_option_value_origin_and_what_is_expected(self) -> None:
        with pytest.raises(ConfigurationError) as caught:
            from_environment({"ISTIO_INBOUND_PORTS": "80,x"})[options.INBOUND_PORTS]
        error = caught.value
        assert (error.option, error.value, error.origin) == (
            "--istio-inbound-ports",
            "80,x",
            "environment ISTIO_INBOUND_PORTS",
        )
        assert str(error) == (
            "--istio-inbound-ports (environment ISTIO_INBOUND_PORTS): invalid value '80,x':"
            " expected '*', or ports (1-65535) or ranges such as 8000-8100, separated by commas; invalid entry 'x'"
        )
        assert error.exit_code == EXIT_USAGE

    @pytest.mark.parametrize(
        ("option", "text", "entry"),
        [
            (options.EXCLUDED_OUTBOUND_NETWORKS, "10.0.0.0/8," * 20 + "foo,bar", "'foo'"),
            (options.INBOUND_PORTS, "80,*", "'*'"),
            (options.OUTBOUND_PORTS, ",".join(map(str, range(1, 2000))) + ",007", "'007'"),
            (options.EXCLUDED_INTERFACES, "eth0,e\n0", r"'e\n0'"),
            (options.PROXY_UID, f"1337,{'x' * 100}", f"'{'x' * 60}... (100 characters)'"),
            (options.UID_PORT_EXCLUSIONS, "tcp:*:1,tcp:1", "'tcp:1'"),
            (
                options.EXCLUDED_OUTBOUND_NETWORKS,
                "::/0,10.0.0.0/33",
                "'10.0.0.0/33'; the prefix length 33 is longer than the 32 bits of an address",
            ),
        ],
    )
    def test_the_bad_entry_of_a_list_is_named(self, option: options.Option[Any], text: str, entry: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            explicit({option: text})[option]
        assert str(caught.value).endswith(f"; invalid entry {entry}")

    def test_of_the_command_line_no_place_is_named(self) -> None:
        with pytest.raises(
            ConfigurationError, match=r"^-p, --envoy-port: invalid value '0': expected a port \(1-65535\)$"
        ):
            explicit({options.PROXY_PORT: "0"})[options.PROXY_PORT]

    def test_an_option_without_flag_is_named_by_its_variable(self) -> None:
        texts = Settings({options.IPV4_LOOPBACK: ExplicitValue("::1", "annotation x")})
        with pytest.raises(
            ConfigurationError, match=r"^ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR \(annotation x\): invalid value '::1'"
        ):
            texts[options.IPV4_LOOPBACK]

    def test_a_long_value_is_cut(self) -> None:
        with pytest.raises(ConfigurationError, match=r"80,80,.*\.\.\. \(3002 characters\)'") as caught:
            explicit({options.INBOUND_PORTS: "80," * 1000 + "x,"})[options.INBOUND_PORTS]
        assert len(str(caught.value)) < 300

    @pytest.mark.parametrize("number", range(len(OPTIONS)), ids=lambda number: OPTIONS[number].name)
    def test_no_option_takes_control_characters(self, number: int) -> None:
        option, character = OPTIONS[number], CONTROL_CHARACTERS[number % len(CONTROL_CHARACTERS)]
        for text in (f"{option.default}{character}", f"{character}{option.default}", f"80{character}81"):
            with pytest.raises(ConfigurationError, match="no control characters") as caught:
                explicit({option: text})[option]
            assert str(caught.value).isprintable(), "the value is shown so that it cannot speak to a terminal"


class TestHostBits:
    def test_each_network_taken_as_another_is_warned_of(self) -> None:
        texts = from_environment({"ISTIO_SERVICE_CIDR": "10.1.2.3/8, 10.0.0.0/8,fd00::1/64,192.0.2.1"})
        where = "--istio-service-cidr (environment ISTIO_SERVICE_CIDR)"
        assert host_bits_warnings(texts) == [
            f"{where}: 10.1.2.3/8 has host bits set, and is taken as 10.0.0.0/8",
            f"{where}: fd00::1/64 has host bits set, and is taken as fd00::/64",
        ]

    @pytest.mark.parametrize("option", NETWORK_OPTIONS, ids=lambda option: option.name)
    def test_every_option_with_networks(self, option: Option[Any]) -> None:
        assert host_bits_warnings(explicit({option: "127.0.0.1/8"})) == [
            f"{option.name} (command line): 127.0.0.1/8 has host bits set, and is taken as 127.0.0.0/8"
        ]

    def test_networks_without_host_bits_give_no_warning(self) -> None:
        assert host_bits_warnings(Settings({})) == []
        assert host_bits_warnings(explicit({options.OUTBOUND_NETWORKS: " * "})) == []

    def test_all_options_with_networks_are_known(self) -> None:
        takes_networks = {option for option in OPTIONS if option.metavar in ("CIDR", "CIDRS")}
        assert set(NETWORK_OPTIONS) == takes_networks

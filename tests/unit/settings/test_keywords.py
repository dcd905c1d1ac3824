"""The keywords of `make_settings`: one for each option, with the values of flags or of Python."""

import ipaddress
from pathlib import Path
from typing import Any

import pytest

from capture.errors import ConfigurationError
from capture.model.addresses import parse_network
from capture.model.ruleset import Span
from capture.settings import options as table
from capture.settings.keywords import OPTIONS_BY_KEYWORD, Keywords, closest_flag, make_settings
from capture.settings.options import EXCLUDED_INBOUND_PORTS, OUTBOUND_NETWORKS, PROXY_PORT, REDIRECT_DNS
from capture.settings.settings import Settings


def test_values_of_python_become_what_a_flag_would_say() -> None:
    settings = make_settings(
        proxy_port=16001,
        excluded_inbound_ports=(22, "80-90"),
        outbound_networks=["10.0.0.0/8", "fd00::/8"],
        redirect_dns=True,
        capture_all_dns=None,
    )

    assert settings[PROXY_PORT] == 16001
    assert settings[EXCLUDED_INBOUND_PORTS] == (Span(22, 22), Span(80, 90))
    assert settings[OUTBOUND_NETWORKS].entries == (parse_network("10.0.0.0/8"), parse_network("fd00::/8"))
    assert settings[REDIRECT_DNS] is True
    assert len(settings.explicit) == 4


def test_no_keyword_is_no_setting() -> None:
    assert make_settings() == Settings({})
    assert make_settings(excluded_inbound_ports=[])[EXCLUDED_INBOUND_PORTS] == ()


def test_a_value_that_cannot_be_used_names_the_argument() -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_settings(outbound_networks=["10.0.0.0/8", "nonsense"])

    assert caught.value.origin == "the argument outbound_networks"
    assert caught.value.value == "10.0.0.0/8,nonsense"


@pytest.mark.parametrize(
    "wrong", [{"proxy_uid": True}, {"proxy_uid": [1337, False]}, {"redirect_dns": 1.0}, {"inbound_ports": b"80"}]
)
def test_a_value_of_another_kind_is_refused_with_the_argument(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigurationError) as caught:
        make_settings(**wrong)
    assert (caught.value.origin, caught.value.value) == (f"the argument {name}", repr(wrong[name]))


def test_a_name_that_is_no_option_is_refused_with_the_one_that_may_be_meant() -> None:
    wrong: dict[str, Any] = {"proxy_prot": 1}
    with pytest.raises(ConfigurationError, match=r"did you mean 'proxy_port'"):
        make_settings(**wrong)
    unlike: dict[str, Any] = {"zzz": 1}
    with pytest.raises(ConfigurationError, match=r"invalid value 'zzz': expected an option of docs/options.md$"):
        make_settings(**unlike)


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("exclude-inbound-ports", "istio-local-exclude-ports"),
        ("include-inbound-ports", "istio-inbound-ports"),
        ("include-outbound-cidrs", "istio-service-cidr"),
        ("exclude-outbound-ports", "istio-local-outbound-ports-exclude"),
        ("exclude-outbound-ip-ranges", "istio-service-exclude-cidr"),
        ("excluded-inbound-networks", "exclude-inbound-cidrs"),
        ("envoy-prt", "envoy-port"),
        ("zzz", ""),
    ],
)
def test_a_flag_is_found_by_the_name_of_its_annotation_or_keyword(name: str, flag: str) -> None:
    assert closest_flag(name, [option.flag for option in table.OPTIONS if option.flag]) == flag


def test_every_option_of_the_table_has_a_keyword() -> None:
    assert set(OPTIONS_BY_KEYWORD.values()) == set(table.OPTIONS)
    assert list(Keywords.__annotations__) == list(OPTIONS_BY_KEYWORD)


@pytest.mark.parametrize(
    ("name", "value", "same"),
    [
        ("outbound_networks", ipaddress.ip_network("10.0.0.0/16"), "10.0.0.0/16"),
        ("outbound_networks", [ipaddress.ip_address("10.0.0.1"), "fd00::/8"], "10.0.0.1/32,fd00::/8"),
        ("ipv4_loopback", ipaddress.ip_network("127.0.0.6"), "127.0.0.6/32"),
        ("proxy_uid", range(1337, 1340), "1337-1339"),
        ("outbound_ports", [range(8000, 8002), 9000], "8000-8001,9000"),
        ("excluded_inbound_ports", {22}, "22"),
        ("excluded_interfaces", (name for name in ("net1", "net2")), "net1,net2"),
        ("network_namespace", Path("/run/netns/pod"), "/run/netns/pod"),
    ],
)
def test_values_of_other_types_are_taken_where_they_make_sense(name: str, value: Any, same: str) -> None:
    option = OPTIONS_BY_KEYWORD[name]
    assert make_settings(**{name: value})[option] == make_settings(**{name: same})[option]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("excluded_inbound_ports", b"22"),
        ("excluded_inbound_ports", [b"22"]),
        ("excluded_inbound_ports", [[22]]),
        ("excluded_inbound_ports", [None]),
        ("excluded_inbound_ports", {22: "ssh"}),
        ("proxy_port", 15001.0),
        pytest.param("proxy_port", 10**4300, id="huge"),
        pytest.param("excluded_outbound_ports", [10**4300], id="huge entry"),
        ("proxy_port", -1),
        ("proxy_port", True),
        ("proxy_uid", 2**32),
        ("outbound_networks", object()),
        ("network_namespace", b"/run/netns/pod"),
        ("proxy_port", range(10**12)),
        ("profile", 1),
    ],
)
def test_everything_else_is_a_configuration_error(name: str, value: object) -> None:
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(ConfigurationError) as caught:
        make_settings(**wrong)

    assert caught.value.option == OPTIONS_BY_KEYWORD[name].name
    assert caught.value.origin == f"the argument {name}"

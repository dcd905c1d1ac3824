"""The settings of a pod come from its annotations and its proxy; upstream's defaults are for the rest."""

from __future__ import annotations

from typing import Any

import pytest

from capture.errors import ConfigurationError
from capture.model.addresses import parse_network
from capture.model.ruleset import Span
from capture.settings import options as option
from capture.settings.config import resolve
from capture.settings.options import Option
from capture.settings.parsers import Selection
from capture.settings.pod import ANNOTATED_OPTIONS, ANNOTATION_NAMES, MAX_MISSPELT, Pod, Proxy, pod_settings
from capture.settings.settings import ExplicitValue, Settings
from capture.system.pod_host import AnyPod

TRAFFIC = "traffic.sidecar.istio.io/"
PROXY_PORTS = (15020, 15021, 15090)
HOSTILE = {
    "a newline": "80\n-A OUTPUT -j ACCEPT",
    "a closing newline": "80\n",
    "a carriage return": "80\r",
    "a zero": "80\0",
    "a quote": '80"',
    "a single quote": "80' -j ACCEPT '",
    "a dash": "--version",
    "an option": "-j ACCEPT",
    "a comment": "80 # rest",
    "a blank inside": "8 0",
    "Arabic digits": "\u0668\u0660",
    "full-width digits": "\uff18\uff10",
    "a superscript": "8²",
    "underscores": "8_0_0_0_0_0_0_0_0",
    "a sign": "+80",
    "a hyphen that is none": "80\u201190",
    "an escape": "80\x1b[2J",
    "half a surrogate pair": "80\ud800",
    "a shell": "$(reboot)",
    "a wildcard among others": "80,*",
    "too much": "80," * 400_000,
    "one long word": "8" * 1_000_000,
}


def spans(*ports: int) -> tuple[Span, ...]:
    return tuple(Span(port, port) for port in ports)


def explicit(annotations: dict[str, str] | None = None, **proxy: Any) -> Settings:
    return pod_settings(Pod("shop", "web-0", annotations or {}, proxy=Proxy(**proxy)), Settings({}))


def refused(annotations: dict[str, str] | None = None, **proxy: Any) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as error:
        explicit(annotations, **proxy)
    return error.value


def test_a_pod_that_says_nothing_gets_upstreams_defaults() -> None:
    settings = explicit()
    assert settings[option.INTERCEPTION_MODE] == "REDIRECT"
    assert settings[option.INBOUND_PORTS] == Selection(is_everything=True)
    assert settings[option.OUTBOUND_NETWORKS] == Selection(is_everything=True)
    assert settings[option.EXCLUDED_INBOUND_PORTS] == spans(*PROXY_PORTS)
    assert settings[option.EXCLUDED_OUTBOUND_PORTS] == spans(15020)
    assert settings[option.EXCLUDED_OUTBOUND_NETWORKS] == ()
    assert settings[option.OUTBOUND_PORTS] == ()
    assert settings[option.REROUTED_INTERFACES] == ()
    assert settings[option.EXCLUDED_INTERFACES] == ()
    assert settings[option.PROXY_UID] == settings[option.PROXY_GID] == spans(1337)
    assert not settings[option.REDIRECT_DNS]
    assert not settings[option.CAPTURE_ALL_DNS]
    assert not settings[option.DUAL_STACK]
    assert not settings[option.DROP_INVALID]


ANNOTATIONS: list[tuple[str, str, Option[Any], object]] = [
    ("sidecar.istio.io/interceptionMode", "TPROXY", option.INTERCEPTION_MODE, "TPROXY"),
    ("sidecar.istio.io/interceptionMode", "REDIRECT", option.INTERCEPTION_MODE, "REDIRECT"),
    (TRAFFIC + "includeInboundPorts", "*", option.INBOUND_PORTS, Selection(is_everything=True)),
    (TRAFFIC + "includeInboundPorts", "80,443", option.INBOUND_PORTS, Selection(spans(80, 443))),
    (TRAFFIC + "includeInboundPorts", " 80 , 443 ", option.INBOUND_PORTS, Selection(spans(80, 443))),
    (TRAFFIC + "includeInboundPorts", "", option.INBOUND_PORTS, Selection()),
    (TRAFFIC + "includeInboundPorts", "8000-8100", option.INBOUND_PORTS, Selection((Span(8000, 8100),))),
    (TRAFFIC + "excludeInboundPorts", "", option.EXCLUDED_INBOUND_PORTS, spans(*PROXY_PORTS)),
    (TRAFFIC + "excludeInboundPorts", "80", option.EXCLUDED_INBOUND_PORTS, spans(80, *PROXY_PORTS)),
    (TRAFFIC + "excludeInboundPorts", "80,", option.EXCLUDED_INBOUND_PORTS, spans(80, *PROXY_PORTS)),
    (TRAFFIC + "excludeInboundPorts", "15090,80", option.EXCLUDED_INBOUND_PORTS, spans(15090, 80, 15020, 15021)),
    (TRAFFIC + "excludeInboundPorts", "80,80", option.EXCLUDED_INBOUND_PORTS, spans(80, *PROXY_PORTS)),
    (TRAFFIC + "excludeOutboundPorts", "", option.EXCLUDED_OUTBOUND_PORTS, ()),
    (TRAFFIC + "excludeOutboundPorts", "5432", option.EXCLUDED_OUTBOUND_PORTS, spans(5432)),
    (TRAFFIC + "includeOutboundPorts", "9000", option.OUTBOUND_PORTS, spans(9000)),
    (TRAFFIC + "includeOutboundIPRanges", "", option.OUTBOUND_NETWORKS, Selection()),
    (
        TRAFFIC + "includeOutboundIPRanges",
        "10.0.0.0/8,fd00::/8",
        option.OUTBOUND_NETWORKS,
        Selection((parse_network("10.0.0.0/8"), parse_network("fd00::/8"))),
    ),
    (
        TRAFFIC + "excludeOutboundIPRanges",
        "169.254.169.254/32",
        option.EXCLUDED_OUTBOUND_NETWORKS,
        (parse_network("169.254.169.254/32"),),
    ),
    (TRAFFIC + "excludeInterfaces", "eth1,net+", option.EXCLUDED_INTERFACES, ("eth1", "net+")),
    (TRAFFIC + "kubevirtInterfaces", "k6t-eth0", option.REROUTED_INTERFACES, ("k6t-eth0",)),
    ("istio.io/reroute-virtual-interfaces", "k6t-eth0", option.REROUTED_INTERFACES, ("k6t-eth0",)),
]


@pytest.mark.parametrize(("name", "text", "which", "value"), ANNOTATIONS)
def test_annotations_set_options(name: str, text: str, which: Option[Any], value: object) -> None:
    settings = explicit({name: text})
    assert settings[which] == value
    assert resolve(settings, AnyPod())[1] == [], "neither an empty list nor a comma at its end is worth a warning"


def test_every_annotation_is_in_the_table() -> None:
    known = {name for which in ANNOTATED_OPTIONS for name in which.annotations}
    assert known == {name for name, *_ in ANNOTATIONS}


def test_the_newer_name_of_the_virtual_interfaces_beats_the_older_one() -> None:
    both = {TRAFFIC + "kubevirtInterfaces": "old0", "istio.io/reroute-virtual-interfaces": "new0"}
    assert explicit(both)[option.REROUTED_INTERFACES] == ("new0",)
    assert explicit(both | {"istio.io/reroute-virtual-interfaces": ""})[option.REROUTED_INTERFACES] == ()


@pytest.mark.parametrize(
    ("uid", "gid", "expected"),
    [
        (None, None, (1337, 1337)),
        (0, 0, (1337, 1337)),
        (1337, 1337, (1337, 1337)),
        (1000670000, None, (1000670000, 1337)),
        (None, 1000670001, (1337, 1000670001)),
        (1000670000, 1000670001, (1000670000, 1000670001)),
    ],
)
def test_the_proxys_user_and_group(uid: int | None, gid: int | None, expected: tuple[int, int]) -> None:
    config, _ = resolve(explicit(uid=uid, gid=gid), AnyPod())
    assert (config.proxy_uids, config.proxy_gids) == (spans(expected[0]), spans(expected[1]))


@pytest.mark.parametrize(("uid", "field"), [({"uid": -1}, "runAsUser"), ({"gid": 2**32 - 1}, "runAsGroup")])
def test_a_user_that_cannot_be_is_refused(uid: dict[str, Any], field: str) -> None:
    assert refused(**uid).origin == f"{field} of container istio-proxy"


@pytest.mark.parametrize(
    ("variable", "which"),
    [
        ("ISTIO_META_DNS_CAPTURE", option.REDIRECT_DNS),
        ("ISTIO_META_DNS_CAPTURE", option.CAPTURE_ALL_DNS),
        ("ISTIO_DUAL_STACK", option.DUAL_STACK),
        ("ISTIO_AGENT_DUAL_STACK", option.DUAL_STACK),  # of Istio 1.16 and 1.17
        ("INVALID_DROP", option.DROP_INVALID),
    ],
)
def test_the_proxys_environment(variable: str, which: Option[bool]) -> None:
    for text, value in {"true": True, "1": True, "false": False, "0": False, "": False}.items():
        assert explicit(environment={variable: text})[which] is value
    unread = explicit(environment={variable: "yes"})
    assert unread == explicit()
    assert len(unread.warnings) == 1
    assert unread.warnings[0].startswith(f"environment {variable} of container istio-proxy: 'yes' is ignored")
    unknown = explicit(environment={variable: ""}, references=("POD_NAME", variable))
    assert unknown == explicit().replace(knows_proxy_environment=which is not option.DUAL_STACK)
    assert len(unknown.warnings) == 1
    assert unknown.warnings[0].startswith(f"environment {variable} of container istio-proxy: a reference")


def test_other_variables_of_the_proxy_say_nothing() -> None:
    # The init container's own variables, and those of options that a pod cannot set.
    others = {"ENVOY_PORT": "1", "PROXY_UID": "0", "DUAL_STACK": "true", "CAPTURE_PROFILE": "nonsense"}
    assert explicit(environment=others).explicit == explicit().explicit


def test_settings_for_all_pods_stay_unless_the_pod_has_its_own() -> None:
    base = Settings(
        {option.PROFILE: ExplicitValue("current", "the file"), option.PROXY_UID: ExplicitValue("5", "the file")}
    )
    settings = pod_settings(Pod("shop", "web-0", {}, proxy=Proxy(uid=7)), base)
    assert settings[option.PROFILE] == "1.30"
    assert settings[option.PROXY_UID] == spans(7)


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("turn", [0, 1])
def test_hostile_annotations_are_refused_by_name_and_value(what: str, turn: int) -> None:
    """Two annotations for each text, and each annotation with several."""
    names = [name for which in ANNOTATED_OPTIONS for name in which.annotations]
    text, name = HOSTILE[what], names[(2 * list(HOSTILE).index(what) + turn) % len(names)]
    error = refused({name: text})
    assert error.origin == f"annotation {name}"
    assert error.value == text
    assert name in error.message
    assert len(error.message) < 600


def test_an_annotation_longer_than_kubernetes_allows_is_refused() -> None:
    longest = "80," * (256 * 1024 // 3) + "8"
    settings = explicit({TRAFFIC + "excludeInboundPorts": longest})
    assert settings[option.EXCLUDED_INBOUND_PORTS][:2] == spans(8, 80)
    error = refused({TRAFFIC + "excludeInboundPorts": f"{longest}0"})
    assert f"at most {256 * 1024} characters" in error.expected, "as many as Kubernetes takes"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        (TRAFFIC + "excludeOutboundIpRanges", TRAFFIC + "excludeOutboundIPRanges"),
        (TRAFFIC + "exclude-inbound-ports", TRAFFIC + "excludeInboundPorts"),
        ("example.com/exclude_inbound_ports", TRAFFIC + "excludeInboundPorts"),
        (TRAFFIC + "excludeOutboundPort", TRAFFIC + "excludeOutboundPorts"),
        ("sidecar.istio.io/includeInboundPorts", TRAFFIC + "includeInboundPorts"),
        ("sidecar.istio.io/InterceptionMode", "sidecar.istio.io/interceptionMode"),
    ],
)
def test_a_misspelt_annotation_is_warned_of(name: str, meant: str) -> None:
    (warning,) = explicit({name: "80"}).warnings
    assert warning == f"annotation {name} has no effect; is {meant} meant?"


def test_of_very_many_misspelt_annotations_some_are_warned_of() -> None:
    assert len(explicit({f"{TRAFFIC}port{number}": "80" for number in range(4000)}).warnings) == MAX_MISSPELT


@pytest.mark.parametrize("name", ["excludeInterfaces", "kubevirtInterfaces"])
def test_more_interfaces_than_a_pod_can_have_are_an_error(name: str) -> None:
    assert refused({TRAFFIC + name: ",".join(f"net{number}" for number in range(257))}).origin.endswith(name)
    assert not explicit({TRAFFIC + name: ",".join(["net1"] * 257)}).warnings


def test_other_annotations_are_none_of_our_business() -> None:
    others = [
        "sidecar.istio.io/status",
        "sidecar.istio.io/proxyCPU",
        "prometheus.io/port",
        "proxy.istio.io/config",
        "x",
    ]
    assert explicit(dict.fromkeys((*others, *ANNOTATION_NAMES[:1]), "REDIRECT")).warnings == ()

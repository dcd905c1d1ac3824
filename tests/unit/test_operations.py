"""The verbs refuse arguments that they cannot use, by name, before they touch a namespace."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from capture.errors import CaptureError, ConfigurationError
from capture.operations import apply, clean, render, trace_packet, verify
from capture.operations.diagnosis import why
from capture.operations.inference import inferred_flags, inferred_settings
from capture.rules import build_ruleset
from capture.settings.config import resolve
from capture.settings.options import OPTIONS, OTHER_FAMILY
from capture.settings.settings import ExplicitValue, Settings, from_environment
from capture.system.pod_host import PodFromInside
from initcontainer.arguments import parse_arguments
from support.captures.fake_pod import POD, ruleset_of
from support.captures.settings import VARIANTS


@pytest.mark.parametrize(
    ("name", "packet"),
    [
        ("destination", {"destination": "example.org", "port": 80}),
        ("destination", {"destination": None, "port": 80}),
        ("source", {"destination": "10.0.0.1", "port": 80, "source": "no-address"}),
        ("port", {"destination": "10.0.0.1", "port": 65536}),
        ("port", {"destination": "10.0.0.1", "port": "80"}),
        ("uid", {"destination": "10.0.0.1", "port": 80, "uid": -1}),
        ("port", {"destination": "10.0.0.1", "port": True}),
        ("protocol", {"destination": "10.0.0.1", "port": 80, "protocol": "icmp"}),
        ("source", {"destination": "10.0.0.1", "port": 80, "source": "fd00::1"}),
        ("in_interface", {"destination": "10.0.0.1", "port": 80, "in_interface": "eth\n0"}),
        ("settings", {"destination": "10.0.0.1", "port": 80, "settings": {"proxy_port": 15001}}),
        ("gid", {"destination": "10.0.0.1", "port": 80, "gid": 2**32}),
    ],
)
def test_a_packet_that_cannot_be_is_refused_by_the_argument(name: str, packet: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        trace_packet(**packet)

    assert caught.value.origin == f"the argument {name}"


@pytest.mark.parametrize("path", [b"/run/netns/pod", "/run/netns/p\0d", "/run/netns/\ud800", 5, ""])
def test_a_path_of_no_namespace_is_a_capture_error(path: Any) -> None:
    with pytest.raises(CaptureError, match="network namespace"):
        apply(Settings({}), path)


@pytest.mark.parametrize(
    ("function", "name", "value"),
    [
        (apply, "settings", {"proxy_port": 15001}),
        (apply, "settings", None),
        (verify, "settings", {}),
        (render, "settings", None),
        (render, "families", "ipv4"),
        (render, "families", ([],)),
        (render, "choice", "nftables"),
        *((function, "lock_timeout", value) for function in (apply, clean) for value in (None, "1", -1, float("inf"))),
        (apply, "lock_timeout", float("nan")),
        (clean, "warn", "print"),
        (apply, "host", object()),
        (apply, "host", PodFromInside),
        (verify, "host", "pod"),
        (render, "host", [10**5000]),
        (trace_packet, "settings", {}),
        (trace_packet, "destination", [10**5000]),
        (trace_packet, "host", ()),
        (why, "settings", "-p 15001"),
        (why, "packet", "tcp 10.0.0.1:80"),
    ],
)
def test_an_argument_of_another_type_is_refused_by_the_function_and_its_name(
    function: Callable[..., object], name: str, value: object
) -> None:
    usable = {"settings": Settings({}), "destination": "10.0.0.1", "port": 80}
    arguments = {each: usable[each] for each in usable if each in inspect.signature(function).parameters}
    with pytest.raises(ConfigurationError) as caught:
        function(**{**arguments, name: value})

    assert (caught.value.option, caught.value.origin) == (f"{function.__name__}()", f"the argument {name}")


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"CAPTURE_BACKEND": "nftables", "CAPTURE_DRIVER": "restore"}, "--driver (environment CAPTURE_DRIVER): "),
        (
            {"CAPTURE_BACKEND": "nftables", "FORCE_IPTABLES_BINARY": "legacy"},
            "--force-iptables-binary (environment FORCE_IPTABLES_BINARY): ",
        ),
        ({"CAPTURE_DRIVER": "netlink", "FORCE_IPTABLES_BINARY": "legacy"}, "--driver (environment CAPTURE_DRIVER): "),
    ],
)
def test_a_contradiction_of_the_backend_is_named_with_its_variable(environ: dict[str, str], place: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        render(from_environment(environ))

    assert str(caught.value).startswith(place)
    assert "CAPTURE_BACKEND" not in environ or "the backend nftables (environment CAPTURE_BACKEND)" in str(caught.value)


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_a_family_that_is_not_captured_has_no_rules_to_render(backend: str) -> None:
    settings = from_environment({"CAPTURE_IP_FAMILIES": "ipv4", "CAPTURE_BACKEND": backend})

    assert render(settings, families=("ipv6",)) == render(settings, families=()) == []
    assert render(settings, families=("ipv4", "ipv6")) == render(settings, families=("ipv4",)) != []

    rejecting = settings.with_option(OTHER_FAMILY, "reject", "test")
    ((title, text),) = render(rejecting, families=("ipv6",))
    assert (title, text.startswith("table inet istio-proxy-reject {")) == ("nft -f -", True)
    assert render(rejecting) == [*render(settings), (title, text)]
    assert render(rejecting, families=("ipv4",)) == render(settings)


@pytest.mark.parametrize("name", ["classic", "current", "classic, underscores", "current, dashes", "TPROXY", "lists"])
def test_the_settings_that_live_rules_amount_to_give_these_rules(name: str) -> None:
    rules = ruleset_of(VARIANTS[name])

    assert build_ruleset(resolve(inferred_settings(rules), POD)[0]) == rules
    flags = parse_arguments(inferred_flags(rules), OPTIONS).flags.items()
    given = Settings({option: ExplicitValue(text, "flag") for option, text in flags})
    assert build_ruleset(resolve(given, POD)[0]) == rules

"""One pod gets one rule set, whichever way it is captured: by the init container, by the plugin, by the library."""

import contextlib
import io
import json
import random
from collections.abc import Iterable

import pytest

from capture import operations
from capture.model.ruleset import Ruleset
from capture.settings.keywords import OPTIONS_BY_KEYWORD, make_settings
from initcontainer.__main__ import run
from initcontainer.printer import Printer
from pytest_netns import NamespaceFactory, Pod
from support.runtimes.cni_calls import INJECTED, call, configuration

SAMPLE, ALL = range(8), range(500)
PORTS = (
    *("", "80", "80,443", "8000:8100,9090", "8000-8100", "0", "15020,22"),
    ",".join(map(str, range(3000, 3300))),
    ",".join(map(str, range(3001, 3601, 2))),
)
SELECTED_PORTS = ("*", *PORTS)
NETWORKS = ("", "10.0.0.0/8", "10.1.2.3/16,fd00::/8", "203.0.113.7", ",".join(f"10.{i}.0.0/16" for i in range(20)))
SELECTED_NETWORKS = ("*", *NETWORKS)
INTERFACES = ("", "eth1", "net1,vif+")
MODES = ("REDIRECT", "TPROXY")
TRUTH = ("true", "false", "1", "F")
IDS = ("1337", "0", "1000-1999", "5,7")
OPTIONS: dict[str, tuple[str, ...]] = {
    "proxy_port": ("15001", "16001"),
    "inbound_capture_port": ("15006", "16006"),
    "inbound_tunnel_port": ("15008", "16008"),
    "proxy_uid": IDS,
    "proxy_gid": IDS,
    "interception_mode": MODES,
    "inbound_ports": SELECTED_PORTS,
    "excluded_inbound_ports": PORTS,
    "excluded_inbound_networks": NETWORKS,
    "excluded_interfaces": INTERFACES,
    "outbound_networks": SELECTED_NETWORKS,
    "excluded_outbound_networks": NETWORKS,
    "outbound_ports": PORTS,
    "excluded_outbound_ports": PORTS,
    "uid_port_exclusions": ("", "tcp:443:0", "udp:*:1000-2000"),
    "rerouted_interfaces": INTERFACES,
    "owner_groups": ("*", "202,5-9", ""),
    "ipv4_loopback": ("127.0.0.1/32", "127.0.0.0/8"),
    "tproxy_mark": ("1337", "0x77"),
    "tproxy_route_table": ("133", "200"),
    "redirect_dns": TRUTH,
    "capture_all_dns": TRUTH,
    "drop_invalid": TRUTH,
    "dual_stack": TRUTH,
    "ip_families": ("both", "mesh", "ipv4"),
    "other_family": ("pass", "reject"),
    "profile": ("1.8", "1.30", "classic", "current"),
    "chain_names": ("dash", "underscore"),
    "backend": ("iptables", "nftables"),
}
TRAFFIC = "traffic.sidecar.istio.io/"
ANNOTATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "sidecar.istio.io/interceptionMode": ("interception_mode", MODES),
    TRAFFIC + "includeInboundPorts": ("inbound_ports", SELECTED_PORTS),
    TRAFFIC + "excludeInboundPorts": ("excluded_inbound_ports", PORTS),
    TRAFFIC + "excludeInterfaces": ("excluded_interfaces", INTERFACES),
    TRAFFIC + "includeOutboundIPRanges": ("outbound_networks", SELECTED_NETWORKS),
    TRAFFIC + "excludeOutboundIPRanges": ("excluded_outbound_networks", NETWORKS),
    TRAFFIC + "includeOutboundPorts": ("outbound_ports", PORTS),
    TRAFFIC + "excludeOutboundPorts": ("excluded_outbound_ports", PORTS),
    TRAFFIC + "kubevirtInterfaces": ("rerouted_interfaces", INTERFACES),
}
PROXY_PORTS = "15020,15021,15090"


def chosen(number: int, pool: Iterable[tuple[str, tuple[str, ...]]]) -> dict[str, str]:
    """Return a few of the names, each with one of its texts; always the same for a number."""
    choice = random.Random(number)  # noqa: S311  # a sample, no secret
    return {name: choice.choice(texts) for name, texts in pool if choice.random() < 0.4}


def rules_of(pod: Pod) -> list[Ruleset]:
    return [present.live for present in operations.dump(pod.path).live_sets]


def by_library(pod: Pod, settings: dict[str, str]) -> list[Ruleset]:
    with pod.entered():
        operations.apply(make_settings(**settings))
    return rules_of(pod)


def by_init_container(pod: Pod, settings: dict[str, str]) -> list[Ruleset]:
    """Half of what has a flag comes as that, the rest from the environment."""
    arguments, environ = [], {}
    for place, (name, text) in enumerate(settings.items()):
        option = OPTIONS_BY_KEYWORD[name]
        if option.flag and place % 2:
            arguments.append(f"--{option.flag}={text}")
        else:
            environ[option.variables[-1]] = text
    with pod.entered(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert run(arguments, environ, Printer()) == 0
    return rules_of(pod)


@pytest.mark.parametrize(
    "numbers", [pytest.param(SAMPLE, id="sample"), pytest.param(ALL, id="all", marks=pytest.mark.long)]
)
def test_options_give_the_same_rules_by_init_container_and_library(netns: NamespaceFactory, numbers: range) -> None:
    for number in numbers:
        settings = chosen(number, OPTIONS.items())
        with NamespaceFactory() as factory:
            left, right = factory.pod("library"), factory.pod("init")
            assert by_init_container(right, settings) == by_library(left, settings), settings


@pytest.mark.parametrize(
    "numbers", [pytest.param(range(6), id="sample"), pytest.param(range(200), id="all", marks=pytest.mark.long)]
)
def test_annotations_give_the_rules_of_the_same_options(netns: NamespaceFactory, numbers: range) -> None:
    for number in numbers:
        annotations = chosen(number, ((name, texts) for name, (_, texts) in ANNOTATIONS.items()))
        settings = {ANNOTATIONS[name][0]: text for name, text in annotations.items()}
        settings.setdefault("excluded_outbound_ports", "15020")
        settings["excluded_inbound_ports"] = f"{settings.get('excluded_inbound_ports', '')},{PROXY_PORTS}"
        settings |= {"proxy_uid": "1337", "proxy_gid": "1337", "backend": ("iptables", "nftables")[number % 2]}
        environment = chosen(number, [("ISTIO_META_DNS_CAPTURE", TRUTH), ("INVALID_DROP", TRUTH)])
        if "ISTIO_META_DNS_CAPTURE" in environment:
            settings |= dict.fromkeys(("redirect_dns", "capture_all_dns"), environment["ISTIO_META_DNS_CAPTURE"])
        if "INVALID_DROP" in environment:
            settings["drop_invalid"] = environment["INVALID_DROP"]
        annotations["proxy.istio.io/config"] = json.dumps({"proxyMetadata": environment})
        with NamespaceFactory() as factory:
            plugin, library, init = factory.pod("plugin"), factory.pod("library"), factory.pod("init")
            request = configuration(INJECTED | annotations, backend=settings["backend"])
            done = call(request, CNI_NETNS=plugin.path, CNI_CONTAINERID=f"agree{plugin.inode}")
            assert done.returncode == 0, (annotations, done.stdout)
            expected = by_library(library, settings)
            assert rules_of(plugin) == expected, annotations
            assert by_init_container(init, settings) == expected, annotations

"""Every key of the plugin's configuration is read, has a default, and is named where it cannot be used."""

from typing import Any

import pytest

from capture.settings import options
from capture.settings.settings import Settings
from cni import conf
from cni.conf import AgentPod, Configuration
from cni.protocol import INVALID_CONFIGURATION, MAX_DETAILS_LENGTH, MAX_MESSAGE_LENGTH, CniError

NO_OPTIONS = Configuration(
    settings=Settings({}),
    exclude_namespaces=(),
    pod_sources=("runtime",),
    kubeconfig="",
    agent_pod=None,
    log_level="info",
    log_file="",
    annotations=None,
)
OUR_KEYS = [
    *conf.CAPTURE_OPTIONS,
    "exclude_namespaces",
    "pod_sources",
    "kubeconfig",
    "agent_pod",
    "standalone",
    "log_level",
    "log_file",
    "runtimeConfig",
]


def refused(configuration: dict[str, object]) -> str:
    with pytest.raises(CniError) as error:
        conf.parse_configuration(configuration)
    assert error.value.code == INVALID_CONFIGURATION
    assert len(error.value.message) < MAX_MESSAGE_LENGTH
    assert len(error.value.details) < MAX_DETAILS_LENGTH
    return error.value.message


def test_an_entry_that_says_nothing_has_defaults() -> None:
    assert conf.parse_configuration({}) == NO_OPTIONS
    assert (
        conf.parse_configuration({"cniVersion": "1.0.0", "name": "pods", "type": "capture-cni", "ipam": 3})
        == NO_OPTIONS
    )
    assert conf.parse_configuration(dict.fromkeys(OUR_KEYS)) == NO_OPTIONS


def test_everything_that_can_be_configured() -> None:
    parsed = conf.parse_configuration(
        {
            "profile": "current",
            "chain_names": "dash",
            "backend": "nftables",
            "driver": "netlink",
            "ip_families": "mesh",
            "other_family": "reject",
            "exclude_namespaces": ["kube-system", "a" * 63],
            "pod_sources": ["kubernetes", "runtime"],
            "kubeconfig": "/etc/cni/net.d/capture-kubeconfig",
            "agent_pod": {"namespace": "istio-system", "name_prefix": "capture-agent-", "more": 1},
            "standalone": {"annotations": {"c": "d"}},
            "log_level": "debug",
            "log_file": "/var/log/capture.log",
            "runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"a": "b"}, "portMappings": []},
        }
    )
    explicit = parsed.settings
    assert explicit[options.PROFILE] == "1.30"
    assert explicit[options.CHAIN_NAMES] == "dash"
    assert explicit[options.BACKEND] == "nftables"
    assert explicit[options.DRIVER] == "netlink"
    assert explicit[options.IP_FAMILIES] == "mesh"
    assert explicit[options.OTHER_FAMILY] == "reject"
    assert explicit.origin(options.PROFILE) == "the network configuration's 'profile'"
    assert explicit.origin(options.PROXY_PORT) == "default"
    assert parsed.replace(settings=Settings({})) == Configuration(
        settings=Settings({}),
        exclude_namespaces=("kube-system", "a" * 63),
        pod_sources=("kubernetes", "runtime"),
        kubeconfig="/etc/cni/net.d/capture-kubeconfig",
        agent_pod=AgentPod("istio-system", "capture-agent-"),
        log_level="debug",
        log_file="/var/log/capture.log",
        annotations={"a": "b"},
        standalone={"c": "d"},
    )


def test_with_a_kubeconfig_the_api_server_comes_after_the_runtime() -> None:
    assert conf.parse_configuration({"kubeconfig": "/k"}).pod_sources == ("runtime", "kubernetes")
    assert conf.parse_configuration({"kubeconfig": "/k", "pod_sources": ["runtime"]}).pod_sources == ("runtime",)


def test_no_annotations_are_not_the_same_as_none_handed_over() -> None:
    without: list[dict[str, object]] = [{}, {"portMappings": []}]
    for runtime_config in without:
        assert conf.parse_configuration({"runtimeConfig": runtime_config}).annotations is None
    nothing: list[object] = [{}, None]
    for none in nothing:  # containerd writes null for a pod without annotations
        assert (
            conf.parse_configuration({"runtimeConfig": {"io.kubernetes.cri.pod-annotations": none}}).annotations == {}
        )


UNUSABLE: list[tuple[str, object]] = [
    ("profile", "modern"),
    ("profile", 3),
    ("profile", ["classic"]),
    ("ip_families", "ipv6"),
    ("ip_families", ["ipv4"]),
    ("other_family", "drop"),
    ("chain_names", "DASH"),
    ("backend", "ebpf"),
    ("backend", True),
    ("driver", "magic"),
    ("driver", "netlink\n"),
    ("exclude_namespaces", "kube-system"),
    ("exclude_namespaces", ["kube-system", 3]),
    ("exclude_namespaces", [""]),
    ("exclude_namespaces", ["kube-system "]),
    ("exclude_namespaces", ["Kube"]),
    ("exclude_namespaces", ["-a"]),
    ("exclude_namespaces", ["a-"]),
    ("exclude_namespaces", ["a" * 64]),
    ("exclude_namespaces", {"a": 1}),
    ("pod_sources", "runtime"),
    ("pod_sources", []),
    ("pod_sources", ["operator"]),
    ("pod_sources", ["runtime", "runtime"]),
    ("pod_sources", [["runtime"]]),
    ("pod_sources", ["kubernetes"]),  # and no kubeconfig
    ("kubeconfig", "etc/kubeconfig"),
    ("kubeconfig", "/etc/\0"),
    ("kubeconfig", "/etc/\ud800"),
    ("kubeconfig", "/etc/a\nb"),
    ("kubeconfig", {}),
    ("agent_pod", "capture-agent"),
    ("agent_pod", {}),
    ("agent_pod", {"namespace": "a"}),
    ("agent_pod", {"namespace": "a", "name_prefix": ""}),
    ("agent_pod", {"namespace": "", "name_prefix": "a"}),
    ("agent_pod", {"namespace": "a", "name_prefix": 1}),
    ("standalone", True),
    ("standalone", {}),
    ("standalone", {"annotations": None}),
    ("standalone", {"annotations": ["a"]}),
    ("standalone", {"annotations": {"a": 1}}),
    ("log_level", "verbose"),
    ("log_level", 1),
    ("log_file", "log"),
    ("log_file", "/dev/stdout"),
    ("log_file", "/proc/self/fd/1"),
    ("runtimeConfig", []),
    ("runtimeConfig", {"io.kubernetes.cri.pod-annotations": []}),
    ("runtimeConfig", {"io.kubernetes.cri.pod-annotations": {"a": 1}}),
    ("runtimeConfig", {"io.kubernetes.cri.pod-annotations": {"a": None}}),
]


@pytest.mark.parametrize(("key", "value"), UNUSABLE)
def test_a_value_that_cannot_be_used_is_named(key: str, value: object) -> None:
    where, _, _ = refused({key: value}).removeprefix("network configuration: ").partition(" ")
    assert where.strip(":'").split(".")[0] == key


def test_words_are_expected_as_for_options() -> None:
    assert "'log_level': invalid value \"x\": expected debug, info, warn or error" in refused({"log_level": "x"})


def test_every_key_has_been_tried() -> None:
    assert {key for key, _ in UNUSABLE} == set(OUR_KEYS)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("profile", "modern", 'invalid value "modern": expected 1.8 (classic) or 1.30 (current)'),
        ("standalone", {}, 'invalid value {}: expected an object such as {"annotations": '),
        ("agent_pod", {}, 'invalid value {}: expected an object such as {"namespace": "istio-system", '),
        ("runtimeConfig", [], "invalid value []: expected an object"),
    ],
)
def test_the_message_says_what_there_is_and_what_is_expected(key: str, value: object, words: str) -> None:
    assert refused({key: value}).startswith(f"network configuration: '{key}': {words}")
    assert "'pod_sources' has 'kubernetes', but there is no 'kubeconfig'" in refused({"pod_sources": ["kubernetes"]})
    assert "(1000002 characters)" in refused({"kubeconfig": "x" * 1_000_000})


def test_the_message_names_the_key_within_an_object() -> None:
    texts = 'invalid value {"a": 1}: expected an object with texts as values'
    of_mesh: dict[str, object] = {"standalone": {"annotations": {"a": 1}}}
    assert refused(of_mesh).startswith(f"network configuration: 'standalone.annotations': {texts}")
    capability = "io.kubernetes.cri.pod-annotations"
    of_pod: dict[str, object] = {"runtimeConfig": {capability: {"a": 1}}}
    assert refused(of_pod).startswith(f"network configuration: 'runtimeConfig.{capability}': {texts}")


@pytest.mark.parametrize(
    ("namespace", "name", "is_agent"),
    [
        ("istio-system", "capture-agent-x7k2p", True),
        ("istio-system", "capture-agen", False),
        ("istio-system-2", "capture-agent-x7k2p", False),
        ("", "capture-agent-x7k2p", False),
    ],
)
def test_our_agent_is_known_by_namespace_and_prefix(namespace: str, name: str, *, is_agent: bool) -> None:
    assert AgentPod("istio-system", "capture-agent-").includes(namespace, name) == is_agent


REQUESTS_ANNOTATIONS: dict[str, Any] = {"capabilities": {"io.kubernetes.cri.pod-annotations": True}}


@pytest.mark.parametrize(
    ("entry", "lacks_source"),
    [
        (REQUESTS_ANNOTATIONS, True),
        ({}, False),  # it does not request them: a mistake, which is named
        (REQUESTS_ANNOTATIONS | {"pod_sources": ["runtime"]}, False),  # it insists
        (REQUESTS_ANNOTATIONS | {"kubeconfig": "/k"}, False),
        # a pod that has none
        (REQUESTS_ANNOTATIONS | {"runtimeConfig": {"io.kubernetes.cri.pod-annotations": None}}, False),
        (REQUESTS_ANNOTATIONS | {"runtimeConfig": {}}, True),
    ],
)
def test_a_runtime_that_hands_over_nothing_is_known(entry: dict[str, Any], *, lacks_source: bool) -> None:
    assert conf.lacks_source(entry) is lacks_source

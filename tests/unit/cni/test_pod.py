"""A pod is what the runtime and its annotations tell of it, as Istio reads them."""

import json

import pytest

from capture.errors import ConfigurationError
from capture.settings.pod import Pod, Proxy
from cni.pod import Identity, identity_of, pod_from_annotations

WEB = Identity("shop", "web-0", "uid-1")
STATUS = "sidecar.istio.io/status"
TEMPLATES = "inject.istio.io/templates"


def test_a_pod_is_one_that_has_namespace_and_name() -> None:
    both = {"K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": "web-0"}
    assert identity_of(both) == Identity("shop", "web-0", "")
    assert identity_of(both | {"K8S_POD_UID": "uid-1", "K8S_POD_INFRA_CONTAINER_ID": "cafe"}) == WEB
    for missing in both:
        assert identity_of(both | {missing: ""}) is None
        assert identity_of({name: text for name, text in both.items() if name != missing}) is None


def status(**lists: object) -> dict[str, str]:
    return {STATUS: json.dumps(lists)}


INJECTED: list[tuple[dict[str, str], tuple[str, ...] | None]] = [
    ({}, ()),
    (status(containers=["istio-proxy"]), ("istio-proxy",)),
    (status(containers=["istio-proxy"], initContainers=None), ("istio-proxy",)),
    (status(initContainers=["istio-validation"], containers=["istio-proxy"]), ("istio-validation", "istio-proxy")),
    (status(initContainers=["istio-validation", "istio-proxy"], containers=None), ("istio-validation", "istio-proxy")),
    (status(volumes=["istio-envoy"], revision="default"), ()),
    ({STATUS: "true"}, None),
]


@pytest.mark.parametrize(("annotations", "containers"), INJECTED)
def test_the_status_names_the_injected_containers(
    annotations: dict[str, str], containers: tuple[str, ...] | None
) -> None:
    assert pod_from_annotations(WEB, annotations) == Pod("shop", "web-0", annotations, containers=containers)


BAD_STATUS = [
    "",
    "injected",
    "false",
    "1",
    "[]",
    '"istio-proxy"',
    '{"containers": "istio-proxy"}',
    '{"containers": [1]}',
    '{"containers": {"istio-proxy": 1}}',
    '{"containers": ["istio-proxy"]',
    '{"containers": ["istio-proxy"]}\n{}',
    "{'containers': ['istio-proxy']}",
    "[" * 100_000,
    "-A OUTPUT -j ACCEPT",
]


@pytest.mark.parametrize("text", BAD_STATUS, ids=range(len(BAD_STATUS)))
def test_a_status_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        pod_from_annotations(WEB, {STATUS: text})
    assert error.value.origin == f"annotation {STATUS}"
    assert error.value.value == text


@pytest.mark.parametrize(
    ("templates", "proxy"),
    [
        ("sidecar", Proxy()),
        ("gateway", Proxy(arguments=("proxy", "router"))),
        ("grpc-agent", Proxy(environment={"DISABLE_ENVOY": "true"})),
        ("custom", Proxy()),
        ("sidecar, gateway", Proxy(arguments=("proxy", "router"))),
        ("gateway,sidecar", Proxy()),
        ("gateway,custom", Proxy(arguments=("proxy", "router"))),
        ("", Proxy()),
    ],
)
def test_the_templates_show_what_kind_of_proxy_was_injected(templates: str, proxy: Proxy) -> None:
    assert pod_from_annotations(WEB, {TEMPLATES: templates}).proxy == proxy


@pytest.mark.parametrize(
    "config",
    [
        '{"proxyMetadata": {"ISTIO_META_DNS_CAPTURE": "true"}}',
        '{"proxyMetadata": {"ISTIO_META_DNS_CAPTURE": true}, "holdApplicationUntilProxyStarts": true}',
        'proxyMetadata:\n  ISTIO_META_DNS_CAPTURE: "true"\n',
        "concurrency: 2\nproxyMetadata:\n    # all\n\n    A: b\n    ISTIO_META_DNS_CAPTURE: 'true' # yes\nimage: {}\n",
        "proxyMetadata: {A: b, ISTIO_META_DNS_CAPTURE: true}",
        "image: {imageType: proxyMetadata}\nmyproxyMetadata: {}\nproxyMetadata:\n  ISTIO_META_DNS_CAPTURE: true\n",
        "{proxyMetadata: {A: [b, {c: d}], ISTIO_META_DNS_CAPTURE: 'true'}, image: {}}",
        "---\n{concurrency: 2,  # two\n proxyMetadata: {\n  ISTIO_META_DNS_CAPTURE: true}}\n",
        'proxyMetadata: {\n  ISTIO_META_DNS_CAPTURE: "true",\n  A: http://b,\n}\nimage: {}\n',
        "proxyMetadata: {\nISTIO_META_DNS_CAPTURE: true\n}",
        "  proxyMetadata:\n    ISTIO_META_DNS_CAPTURE: true\n  tracing:\n    ISTIO_META_DNS_CAPTURE: no",
    ],
)
def test_the_environment_that_the_annotation_for_the_proxy_gives_it(config: str) -> None:
    proxy = pod_from_annotations(WEB, {"proxy.istio.io/config": config}).proxy
    assert proxy.environment["ISTIO_META_DNS_CAPTURE"] == "true"
    assert proxy.environment_from == "annotation proxy.istio.io/config"


def test_values_that_are_no_texts_are_those_of_the_annotation() -> None:
    config = '{"proxyMetadata": {"A": false, "B": 1, "C": "0", "D": null}}'
    proxy = pod_from_annotations(WEB, {"proxy.istio.io/config": config}).proxy
    assert proxy.environment == {"A": "false", "B": "1", "C": "0", "D": "null"}


def test_annotations_do_not_tell_the_whole_environment() -> None:
    assert not pod_from_annotations(WEB, {}).knows_environment


def test_quotes_of_its_names_and_values_are_taken_off_in_pairs() -> None:
    config = "proxyMetadata:\n  A: ''\n  B: '\n  C: \"x'\n  'D': y\n  E: _z_\n"
    proxy = pod_from_annotations(WEB, {"proxy.istio.io/config": config}).proxy
    assert proxy.environment == {"A": "", "B": "'", "C": "\"x'", "D": "y", "E": "_z_"}


def test_a_block_ends_at_a_line_that_is_no_deeper_than_its_name() -> None:
    config = "---\n  proxyMetadata:\n    A: b\n  tracing:\n    C: d\n"
    assert pod_from_annotations(WEB, {"proxy.istio.io/config": config}).proxy.environment == {"A": "b"}


@pytest.mark.parametrize(
    "config",
    [
        "",
        "{",
        "[]",
        "proxyMetadata",
        "proxyMetadata: 3",
        "a:\n  proxyMetadata: x",
        "- a",
        "#proxyMetadata:\n#  A: b",
        "{proxyMetadata: {A",
        "{]",
        "  proxyMetadata:\n  tracing:\n    ISTIO_META_DNS_CAPTURE: true",
    ],
)
def test_an_unreadable_part_of_it_gives_nothing(config: str) -> None:
    assert pod_from_annotations(WEB, {"proxy.istio.io/config": config}).proxy.environment == {}

"""Injection into texts: what it adds, where, and what it refuses."""

import json
import os
import re
import stat
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from capture.cli.group import run
from capture.errors import EXIT_USAGE, CaptureError
from capture.settings.settings import Settings
from injection.inject import inject
from injection.pods import POD_PATHS
from injection.remove import remove
from injection.security import level_of
from injection.settings import PodSettings, parse_set
from injection.template import READY, Fragment, InjectionError, Template
from injection.yaml_text import block

FILE_1 = """apiVersion: apps/v1
kind: Deployment
metadata:
  name: nginx-deployment
  labels:
    app: nginx
spec:
  replicas: 3
  selector:
    matchLabels:
      app: nginx
  template:
    metadata:
      labels:
        app: nginx
    spec:
      containers:
      - name: nginx
        image: nginx:1.14.2
        ports:
        - containerPort: 80
"""
SMALL = Fragment(containers=({"name": "istio-proxy", "image": "proxy:1"},))
NOTHING = Settings({})


def annotated(name: str, value: str) -> str:
    """Return the seed's deployment with an annotation of its pods."""
    return FILE_1.replace("    metadata:\n", f"    metadata:\n      annotations: {{{name}: {json.dumps(value)}}}\n")


def template_of(text: str, *path: str) -> Any:
    document = yaml.safe_load(text)
    for step in path or ("spec", "template"):
        document = document[step]
    return document


def names(spec: Any) -> tuple[list[str], list[str]]:
    return [one["name"] for one in spec.get("initContainers", [])], [one["name"] for one in spec["containers"]]


def test_the_seeds_deployment_gets_what_the_seed_shows() -> None:
    pod = template_of(inject(FILE_1, "f", Template(), NOTHING).text)
    init, proxy = pod["spec"]["initContainers"]

    assert init["args"] == [
        "istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*",
        "-d", "15090,15021,15020",
    ]  # fmt: skip
    assert init["securityContext"]["capabilities"] == {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]}
    assert proxy["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsGroup": 1337,
        "runAsNonRoot": True,
        "runAsUser": 1337,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert proxy["restartPolicy"] == "Always"
    assert json.loads(proxy["args"][1])["node"]["id"] == "sidecar~nginx-deployment.default"
    status = json.loads(pod["metadata"]["annotations"]["sidecar.istio.io/status"])
    assert status["initContainers"] == ["istio-init", "istio-proxy"]
    assert status["containers"] is None


@pytest.mark.parametrize(
    ("template", "init", "containers"),
    [
        (Template(fragment=SMALL), ["istio-init", "istio-proxy", "first"], ["app"]),
        (Template(fragment=SMALL, is_native=False), ["first", "istio-init"], ["app", "istio-proxy"]),
        (Template(fragment=SMALL, uses_plugin=True), ["istio-validation", "istio-proxy", "first"], ["app"]),
        (
            Template(fragment=SMALL, uses_plugin=True, is_native=False),
            ["istio-validation", "first"],
            ["app", "istio-proxy"],
        ),
    ],
)
def test_the_order_of_containers(template: Template, init: list[str], containers: list[str]) -> None:
    text = "kind: Pod\nmetadata: {name: p}\nspec: {initContainers: [{name: first}], containers: [{name: app}]}\n"

    assert names(template_of(inject(text, "f", template, NOTHING).text, "spec")) == (init, containers)


@pytest.mark.parametrize(
    ("annotations", "arguments"),
    [
        ({"traffic.sidecar.istio.io/excludeInboundPorts": "22"}, {"-d": "15090,15021,22,15020"}),
        ({"traffic.sidecar.istio.io/excludeInboundPorts": "22 , 9000"}, {"-d": "15090,15021,22,9000,15020"}),
        ({"traffic.sidecar.istio.io/excludeInboundPorts": "15020, 22"}, {"-d": "15090,15021,15020, 22"}),
        ({"status.sidecar.istio.io/port": "0"}, {"-d": "15090,15021"}),
        ({"status.sidecar.istio.io/port": "15099"}, {"-d": "15090,15021,15099"}),
        ({"traffic.sidecar.istio.io/includeOutboundPorts": "443"}, {"-q": "443"}),
        ({"traffic.sidecar.istio.io/excludeOutboundPorts": ""}, {"-o": ""}),
        ({"traffic.sidecar.istio.io/kubevirtInterfaces": "tap0"}, {"-k": "tap0"}),
        (
            {"traffic.sidecar.istio.io/kubevirtInterfaces": "tap0", "istio.io/reroute-virtual-interfaces": "tap1"},
            {"-k": "tap1"},
        ),
        ({"traffic.sidecar.istio.io/excludeInterfaces": "eth1"}, {"-c": "eth1"}),
        ({"sidecar.istio.io/interceptionMode": "TPROXY"}, {"-m": "TPROXY"}),
    ],
)
def test_arguments_follow_the_annotations_as_istios_do(annotations: dict[str, str], arguments: dict[str, str]) -> None:
    words = PodSettings(NOTHING, annotations).arguments()
    given = dict(zip(words[1::2], words[2::2], strict=True))

    assert given.items() >= arguments.items()
    assert list(given) == [f"-{letter}" for letter in "pzumixbdqokc" if f"-{letter}" in given]


def test_without_capture_there_is_a_proxy_only() -> None:
    text = annotated("sidecar.istio.io/interceptionMode", "NONE")
    result = inject(text, "f", Template(fragment=SMALL), NOTHING)

    assert names(template_of(result.text)["spec"])[0] == ["istio-proxy"]
    assert "nothing is captured" in result.outcomes[0].warnings[0]


def test_settings_that_the_plugin_cannot_know_are_written_out() -> None:
    base = parse_set(("istio-service-exclude-cidr=10.0.0.0/8", "istio-inbound-interception-mode=TPROXY"))
    pod = template_of(inject(FILE_1, "f", Template(uses_plugin=True, fragment=SMALL), base).text)

    annotations = pod["metadata"]["annotations"]
    assert annotations["traffic.sidecar.istio.io/excludeOutboundIPRanges"] == "10.0.0.0/8"
    assert annotations["sidecar.istio.io/interceptionMode"] == "TPROXY"
    assert annotations["traffic.sidecar.istio.io/excludeOutboundPorts"] == ""
    assert "traffic.sidecar.istio.io/excludeInboundPorts" not in annotations, "the plugin knows the status port"
    with pytest.raises(
        InjectionError, match=r"f, document 1, line 13: Deployment default/nginx-deployment: --envoy-port"
    ):
        inject(FILE_1, "f", Template(uses_plugin=True, fragment=SMALL), parse_set(("envoy-port=16001",)))
    with pytest.raises(InjectionError, match=r"--proxy-uid .*: invalid value '2000'"):
        inject(
            FILE_1,
            "f",
            Template(uses_plugin=True, fragment=SMALL),
            parse_set(("proxy-uid=2000", "istio-inbound-interception-mode=TPROXY")),
        )


def test_a_status_port_that_only_the_plugin_leaves_alone_is_warned_of() -> None:
    text = FILE_1.replace("      labels:", "      annotations: {status.sidecar.istio.io/port: '0'}\n      labels:")
    by_plugin, by_init = (
        inject(text, "f", Template(uses_plugin=uses_plugin, fragment=SMALL), NOTHING).outcomes[0].warnings
        for uses_plugin in (True, False)
    )

    assert [each for each in by_plugin if each not in by_init] == [
        "the CNI plugin leaves inbound port 15020 alone, whatever the status port is"
    ]


def test_the_status_has_istios_keys_and_lists_in_its_order() -> None:
    text = FILE_1.replace("      containers:", "      restartPolicy: Always\n      containers:")
    result = inject(text, "f", Template(), NOTHING).text
    status = json.loads(template_of(result)["metadata"]["annotations"]["sidecar.istio.io/status"])

    assert {"initContainers", "containers", "volumes", "imagePullSecrets", "revision"} < set(status)
    positions = [result.index(f"\n      {key}:") for key in ("restartPolicy", "initContainers", "containers")]
    assert positions == sorted(positions)


@pytest.mark.parametrize("after", ["", "    name: app\n", "---\nkind: None\n"])
def test_a_text_that_keeps_its_blank_lines_keeps_them(after: str) -> None:
    """What is added comes after the blank lines of ``|+``, which are part of the text (YAML 1.2, section 8.1.1.2)."""
    text = (
        "kind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: app\n    command:\n    - |+\n      a\n\n\n"
        + after
    )
    result = inject(text, "f", Template(fragment=SMALL, is_native=False), NOTHING).text

    assert next(iter(yaml.safe_load_all(result)))["spec"]["containers"][0]["command"] == ["a\n\n\n"]
    assert remove(result, "f") == text


@pytest.mark.parametrize("given", ["", "REDIRECT"])
def test_an_empty_mode_is_a_redirection(given: str) -> None:
    assert PodSettings(NOTHING, {"sidecar.istio.io/interceptionMode": given}).mode == "REDIRECT"


@pytest.mark.parametrize("template", [Template(), Template(uses_plugin=True)])
def test_the_proxys_metadata_counts_for_rules_and_proxy_wherever_it_is_injected(
    template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capture.system.pod_host.RESOLV_CONF", str(tmp_path / "none"))
    text = annotated("proxy.istio.io/config", "proxyMetadata: {ISTIO_META_DNS_CAPTURE: 'true', A: b}")
    rules, proxy = template_of(inject(text, "f", template, NOTHING).text)["spec"]["initContainers"]

    assert rules["env"] == proxy["env"] == [{"name": "ISTIO_META_DNS_CAPTURE", "value": "true"}]
    assert '"dns-udp-ipv4"' in proxy["args"][1]


@pytest.mark.parametrize(
    "kind", ["DaemonSet", "Deployment", "DeploymentConfig", "Job", "ReplicaSet", "ReplicationController", "StatefulSet"]
)
def test_each_kind_of_workload_is_injected(kind: str) -> None:
    (outcome,) = inject(FILE_1.replace("kind: Deployment", f"kind: {kind}"), "f", Template(), NOTHING).outcomes
    assert outcome.injected


def test_a_cronjobs_pods_have_the_status() -> None:
    text = """kind: CronJob
metadata: {name: c}
spec:
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: job}]
"""
    result = inject(text, "f", Template(fragment=SMALL), NOTHING)

    job = yaml.safe_load(result.text)["spec"]["jobTemplate"]
    assert "sidecar.istio.io/status" in job["spec"]["template"]["metadata"]["annotations"]
    assert "metadata" not in job
    assert result.outcomes[0].warnings == ()
    classic = inject(text, "f", Template(fragment=SMALL, is_native=False), NOTHING)
    assert "keeps a Job from ending" in classic.outcomes[0].warnings[0]


def test_a_users_own_proxy_is_merged_into_the_injected_one() -> None:
    text = """kind: Pod
metadata: {name: p}
spec:
  containers:
  - name: app
  - name: istio-proxy   # mine
    image: auto
    securityContext: {runAsUser: 2000}
    env: [{name: MINE, value: "1"}]
"""
    fragment = Fragment(
        containers=(
            {
                "name": "istio-proxy",
                "image": "proxy:1",
                "env": [{"name": "MINE", "value": "0"}, {"name": "OTHER", "value": "2"}],
                "securityContext": {"runAsUser": 1337, "readOnlyRootFilesystem": True},
            },
        )
    )
    once = inject(text, "f", Template(fragment=fragment), NOTHING).text
    spec = template_of(once, "spec")
    proxy = spec["initContainers"][1]

    assert names(spec) == (["istio-init", "istio-proxy"], ["app"])
    assert proxy["restartPolicy"] == "Always"
    assert proxy["image"] == "proxy:1"
    assert proxy["env"] == [{"name": "MINE", "value": "1"}, {"name": "OTHER", "value": "2"}]
    assert proxy["securityContext"] == {"runAsUser": 2000, "readOnlyRootFilesystem": True}
    assert spec["initContainers"][0]["args"][6] == "2000"
    assert remove(once, "f") == text


def test_of_fields_that_exclude_each_other_the_users_stay() -> None:
    """The API server refuses a probe of two kinds and a variable with two sources, kubelet root where none may be."""
    proxy = {
        "name": "istio-proxy",
        "image": "auto",
        "readinessProbe": {"tcpSocket": {"port": 1}},
        "startupProbe": {"exec": {"command": ["x"]}},
        "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "securityContext": {"privileged": True, "runAsUser": 0},
    }
    context = {"allowPrivilegeEscalation": False, "privileged": False, "runAsNonRoot": True, "runAsUser": 1337}
    ours = {
        "name": "istio-proxy",
        "image": "p",
        "readinessProbe": READY,
        "env": [{"name": "A", "value": "1"}],
        "securityContext": context,
    }
    text = json.dumps({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, proxy]}})
    made = inject(text, "f", Template(fragment=Fragment(containers=(ours,))), NOTHING).text
    merged = template_of(made, "spec")["initContainers"][1]
    assert merged["readinessProbe"] == proxy["readinessProbe"]
    assert merged["startupProbe"].keys() == {"exec", "periodSeconds", "failureThreshold"}
    assert merged["env"] == proxy["env"]
    assert merged["securityContext"] == proxy["securityContext"]


def test_a_null_or_an_empty_image_of_the_user_changes_nothing() -> None:
    nulls = dict.fromkeys(("securityContext", "args", "env", "ports", "readinessProbe", "command"))
    made = []
    for own in ({}, {"image": "", **nulls}, {"image": None, "securityContext": {"runAsUser": None}}):
        containers = [{"name": "a"}, {"name": "istio-proxy", **own}]
        text = json.dumps({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}})
        made.append(template_of(inject(text, "f", Template(), NOTHING).text, "spec"))
    assert made[0] == made[1] == made[2]


WORDS = ["y", "N", "1e3", "08", "1_0", "-0o7", "0B1", ".5", "1.", "+1"]
"""Numbers and truth values of kubectl's YAML, of which PyYAML does not know all."""


def test_a_text_is_a_text_for_kubectl_too() -> None:
    own = {"name": "istio-proxy", "image": "auto", "args": WORDS}
    text = json.dumps({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, own]}})
    spec = block(template_of(inject(text, "f", Template(), NOTHING).text, "spec"), "", "\n")
    assert all(f"- '{word}'\n" in spec for word in WORDS)


def test_a_pod_that_lost_its_annotations_gets_nothing_twice() -> None:
    """As `kubectl debug --copy-to` makes it."""
    injected = template_of(inject(FILE_1, "f", Template(), NOTHING).text)
    copy = yaml.safe_dump({"kind": "Pod", "metadata": {"name": "copy"}, "spec": injected["spec"]})
    again = template_of(inject(copy, "f", Template(), NOTHING).text, "spec")

    assert names(again) == (["istio-init", "istio-proxy"], ["nginx"])


def test_a_pod_of_another_injector_is_left_alone() -> None:
    text = annotated("sidecar.istio.io/status", '{"containers": ["istio-proxy"]}')
    result = inject(text, "f", Template(), NOTHING)

    assert result.text == text == remove(text, "f")
    assert "another injector" in result.outcomes[0].reason


ALIASED = """kind: List
items:
- kind: Pod
  metadata: {name: a, annotations: &notes {note: x}}
  spec: {containers: &apps [{name: app}]}
- kind: Service
  metadata: {name: s, annotations: *notes}
"""


def test_a_value_that_something_else_shares_is_not_changed() -> None:
    with pytest.raises(InjectionError, match="anchor"):
        inject(ALIASED, "f", Template(fragment=SMALL), NOTHING)


def test_aliases_are_written_out_where_something_is_added() -> None:
    text = """notes: &notes {note: x}
first: &first
- name: first
kind: Pod
metadata: {name: a, annotations: *notes}
spec:
  initContainers: *first
  containers: [{name: app}]
"""
    result = inject(text, "f", Template(fragment=SMALL), NOTHING).text
    pod = yaml.safe_load(result)

    assert pod["metadata"]["annotations"]["note"] == "x"
    assert pod["notes"] == {"note": "x"}
    assert names(pod["spec"])[0] == ["istio-init", "istio-proxy", "first"]
    assert remove(result, "f") == text


@pytest.mark.parametrize(
    ("annotation", "value", "problem"),
    [
        ("traffic.sidecar.istio.io/includeInboundPorts", "http", "'http'"),
        ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.0.0.0/99", "10.0.0.0/99"),
        ("sidecar.istio.io/interceptionMode", "SOMETIMES", "SOMETIMES"),
    ],
)
def test_an_annotation_that_cannot_be_used_is_refused_before_anything_is_written(
    annotation: str, value: str, problem: str
) -> None:
    text = FILE_1.replace(
        "    metadata:\n      labels:", f'    metadata:\n      annotations: {{{annotation}: "{value}"}}\n      labels:'
    )
    with pytest.raises(
        InjectionError, match=f"f, document 1, line 14: Deployment .*annotation {annotation}.*{problem}"
    ):
        inject(text, "f", Template(), NOTHING)


POD = """kind: Pod
metadata: {name: web, annotations: {a: b}}
spec:
  volumes: [{name: v}]
  containers:
  - {name: app, env: [{name: A}], ports: [{containerPort: 1}], readinessProbe: {exec: {}}}
  - {name: istio-proxy, image: auto, securityContext: {runAsUser: 5, capabilities: {add: [SETUID]}}}
"""


BOMB = "a: &a [1], " + "".join(f"{b}: &{b} [{f'*{a}, ' * 99}], " for a, b in ("ab", "bc", "cd", "de"))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("{name: web, annotations: {a: b}}", "[]", "metadata: invalid value []: expected a mapping"),
        ("{a: b}", "[null]", "metadata.annotations: invalid value [null]: expected a mapping"),
        ("{a: b}", "{inject.istio.io/templates: 5}", "annotation inject.istio.io/templates: invalid value 5: expected"),
        ("{name: web,", "{labels: {sidecar.istio.io/inject: false},", "label sidecar.istio.io/inject: invalid value"),
        ("name: web", "name: 5", "metadata.name: invalid value 5: expected a string"),
        ("spec:", "spec:\n  hostNetwork: 'false'", 'spec.hostNetwork: invalid value "false": expected true or false'),
        ("[{name: v}]", "5", "spec.volumes: invalid value 5: expected a list"),
        ("[{name: v}]", "[{name: [v]}]", 'spec.volumes[0].name: invalid value ["v"]: expected a string'),
        ("{exec: {}}", "5", "spec.containers[0].readinessProbe: invalid value 5"),
        ("[{name: A}]", "[{value: x}]", "spec.containers[0].env[0]: invalid value"),
        ("[{containerPort: 1}]", "[80]", "spec.containers[0].ports[0]: invalid value 80"),
        ("[SETUID]", "[[SETUID]]", "spec.containers[1].securityContext.capabilities.add[0]: invalid value"),
        ("add: [SETUID]}", "add: []}, sysctls: [{name: [a]}]", "securityContext.sysctls[0].name: invalid value"),
        ("runAsUser: 5", "runAsUser: '5'", "runAsUser of container istio-proxy: invalid value '5'"),
        ("name: app", "name: istio-proxy", "two containers have the name istio-proxy"),
        ("{a: b}", "{status.sidecar.istio.io/port: 'x'}", "status.sidecar.istio.io/port: invalid value 'x'"),
        ("{a: b}", "{traffic.sidecar.istio.io/excludeInboundPorts: '*'}", "excludeInboundPorts): invalid value '*'"),
        ("{a: b}", "{traffic.sidecar.istio.io/excludeInboundPorts: 80:59}", "Ports): invalid value '80:59'"),
        ("{a: b}", """{sidecar.istio.io/status: '{"capture": {"was": 5}}'}""", "status: capture.was: invalid value 5"),
        ("{a: b}", "{a: !!int x}", "not YAML"),
        ("{a: b}", "&x {a: *x}", "an alias holds itself"),
        ("spec:\n  volumes: [{name: v}]\n ", "? spec\n:", "nothing can be added in line 4: no key or dash begins"),
        ("\n", "\r", "nothing can be added in line 4: no key or dash begins a line there"),
        ("kind: Pod", "kind: Pod\nmetadata: {name: twice}", "cannot be injected without changing something else"),
        ("{name: web,", "{" + BOMB, "with its aliases written out it has"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_not_understood_is_refused_by_place_and_value(
    before: str, after: str, expected: str
) -> None:
    assert before in POD
    with pytest.raises(CaptureError, match=re.escape(expected)) as refused:
        inject(POD.replace(before, after), "web.yaml", Template(fragment=SMALL), NOTHING)
    assert refused.value.exit_code == EXIT_USAGE


GOOD_POD = "kind: Pod\nmetadata: {name: ok}\nspec: {containers: [{name: a}]}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: Pod\nmetadata: {name: p}\n", "m, document 2, line 5: Pod shop/p: spec is missing: expected an object"),
        (
            "kind: CronJob\nmetadata: {name: c}\nspec:\n  jobTemplate:\n    spec: {}\n",
            "m, document 2, line 9: CronJob shop/c: spec.jobTemplate.spec.template.spec is missing",
        ),
        (
            "kind: List\nitems:\n- kind: Pod\n  metadata: {name: p}\n  spec:\n    containers:\n    - [a]\n",
            'm, document 2, line 11: Pod shop/p: spec.containers[0]: invalid value ["a"]: expected a mapping',
        ),
        (
            "kind: Job\nmetadata:\n  namespace: 5\nspec: {template: {spec: {}}}\n",
            "m, document 2, line 7: Job 5/(unnamed): metadata.namespace: invalid value 5: expected a string",
        ),
        (
            "kind: Pod\nmetadata:\n  labels:\n    app: 5\nspec: {}\n",
            "m, document 2, line 8: Pod shop/(unnamed): label app: invalid value 5: expected a string",
        ),
        ("kind: List\nitems: {a: b}\n", 'm, document 2: List: items: invalid value {"a": "b"}: expected a list'),
        ("root:x:0:0:root", "m, document 2: expected an object with keys such as `kind`, got 'root:x:0:0:root'"),
        ("kind: Pod\n spec: {}\n", "m, line 6, column 6: not YAML: "),
        (
            'kind: Pod\nmetadata: {annotations: {sidecar.istio.io/status: \'{"capture": {"was": 5}}\'}}\nspec: {}\n',
            "m, document 2: Pod default/(unnamed): annotation sidecar.istio.io/status: capture.was: invalid value 5",
        ),
    ],
)
def test_what_is_wrong_is_found_by_file_document_line_and_name(text: str, message: str) -> None:
    with pytest.raises(CaptureError) as refused:
        inject(f"{GOOD_POD}---\n{text}", "m", Template(fragment=SMALL), NOTHING, "shop")
    assert refused.value.message.startswith(message)
    assert "unicode" not in refused.value.message


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("argoproj.io/v1alpha1 Rollout", "spec template"),
        ("serving.knative.dev/v1 Service", "spec template"),
        ("batch.volcano.sh/v1alpha1 Job", "spec tasks 0 template"),
        ("kubeflow.org/v1 TFJob", "spec tfReplicaSpecs Worker template"),
        ("v1 PodTemplate", "template"),
    ],
)
def test_a_template_of_an_unknown_kind_is_named_and_stays(kind: str, path: str) -> None:
    version, name = kind.split()
    value: Any = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web"}]}}
    for step in reversed(path.split()):
        value = [value] if step == "0" else {step: value}
    text = yaml.safe_dump({"apiVersion": version, "kind": name, "metadata": {"name": "web"}, **value})
    listed = yaml.safe_dump(
        {"apiVersion": "v1", "kind": "List", "items": [yaml.safe_load(text), yaml.safe_load(FILE_1)]}
    )
    for given, known in ((text, []), (listed, [True])):
        result = inject(given, "web.yaml", Template(), NOTHING)
        assert [outcome.injected for outcome in result.outcomes] == [*known, False]
        assert str(result.outcomes[-1].workload) == f"{name} default/web"
        assert f"kind {name} is unknown; its pods ({path.replace(' ', '.')})" in result.outcomes[-1].reason
        assert (result.text == given) is (not known)


@pytest.mark.parametrize("kind", ["PodList", "DeploymentList", "CronJobList"])
def test_objects_of_a_typed_list_need_no_kind(kind: str) -> None:
    pod: dict[str, Any] = {"spec": {"containers": [{"name": "web"}]}}
    for step in reversed(POD_PATHS[kind.removesuffix("List")]):
        pod = {str(step): pod}
    text = yaml.safe_dump({"kind": kind, "items": [{"metadata": {"name": "web"}, **pod}]})
    result = inject(text, "web.yaml", Template(), NOTHING)
    assert [str(each.workload) for each in result.outcomes if each.injected] == [f"{kind[:-4]} default/web"]
    assert remove(result.text, "web.yaml") == text


@pytest.mark.parametrize("spec", ["{containers: [{name: log, image: log}]}", "{template: {containers: []}}", "null"])
def test_a_spec_without_a_pod_template_is_not_named(spec: str) -> None:
    text = f"apiVersion: apps.kruise.io/v1alpha1\nkind: SidecarSet\nmetadata: {{name: log}}\nspec: {spec}\n"
    assert not inject(text, "web.yaml", Template(), NOTHING).outcomes


def test_a_text_like_a_date_stays_a_text() -> None:
    injected = inject(POD.replace("a: b", "a: 2024-02-30"), "web.yaml", Template(fragment=SMALL), NOTHING)
    assert injected.outcomes[0].injected
    assert "a: 2024-02-30" in injected.text


def test_dangers_are_named() -> None:
    text = """kind: Pod
metadata:
  name: p
  labels: {sidecar.istio.io/inject: "yes"}
  annotations:
    traffic.sidecar.istio.io/excludeOutboundIpRanges: 10.0.0.0/8
    traffic.sidecar.istio.io/excludeOutboundPorts: 1-65535
    proxy.istio.io/config: "proxyMetadata: {INVALID_DROP: maybe}"
spec:
  securityContext: {runAsUser: 1337}
  containers:
  - name: app
    ports: [{containerPort: 15006}]
    readinessProbe: {tcpSocket: {port: 80}}
    securityContext: {capabilities: {add: [NET_ADMIN]}, runAsGroup: 1337}
"""
    (outcome,) = inject(text, "f", Template(fragment=SMALL), NOTHING).outcomes

    for part in (
        "neither true nor false",
        "proxy's user (1337)",
        "proxy's group (1337)",
        "NET_ADMIN",
        "15006",
        "tcpSocket",
        "excludeOutboundIpRanges has no effect",
        "holds every port",
        "INVALID_DROP of the proxy: 'maybe'",
    ):
        assert [warning for warning in outcome.warnings if part in warning], part


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        FILE_1,
        FILE_1.replace("\n", "\r\n"),
        "\ufeff" + FILE_1,
        FILE_1 + "# \N{MAN}\u200d\N{WOMAN}\u00a0\U000e0001\n",
        FILE_1.replace("app: nginx", 'app: "\tn"'),
    ],
    ids=["plain", "CRLF", "BOM", "not printable", "tab"],
)
def test_the_command_pipes_and_undoes(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], text: str) -> None:
    source, injected, piped = tmp_path / "in.yaml", tmp_path / "out.yaml", tmp_path / "piped.yaml"
    source.write_bytes(text.encode())

    assert run(["inject", "-f", str(source), "-o", str(injected)]) == 0
    assert b"Deployment default/nginx-deployment: injected" in capfdbinary.readouterr().err
    assert run(["inject", "-f", str(source)]) == 0
    piped.write_bytes(capfdbinary.readouterr().out)
    assert piped.read_bytes() == injected.read_bytes()
    assert run(["inject", "-f", str(piped)]) == 0
    again = capfdbinary.readouterr()
    assert again.out == piped.read_bytes()
    assert b"Deployment default/nginx-deployment: unchanged: injected already" in again.err
    assert run(["inject", "-f", str(piped), "--remove"]) == 0
    assert capfdbinary.readouterr().out == text.encode()


def test_the_output_may_be_a_file_a_link_or_no_file_at_all(tmp_path: Path) -> None:
    source, link, real, fifo = (tmp_path / name for name in ("in.yaml", "link", "real.yaml", "fifo"))
    for path in (source, real):
        path.write_text(FILE_1)
    real.chmod(0o640)
    link.symlink_to(real)
    os.mkfifo(fifo)
    assert run(["inject", "-f", str(source), "-o", str(link)]) == 0
    assert (link.is_symlink(), stat.S_IMODE(real.stat().st_mode)) == (True, 0o640)
    with subprocess.Popen(["cat", str(fifo)], stdout=subprocess.PIPE) as reader:
        assert run(["inject", "-f", str(source), "-o", str(fifo)]) == 0
        assert reader.communicate()[0] == real.read_bytes()
    assert fifo.is_fifo()
    assert sorted(tmp_path.iterdir()) == sorted((source, link, real, fifo))


def test_a_file_that_cannot_be_written_is_no_file_that_was_injected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "in.yaml", tmp_path / "missing" / "out.yaml"
    source.write_text(FILE_1)

    message, remedy = (
        f"cannot write {output}: No such file or directory",
        "Name a file that you may write, in a directory",
    )
    assert run(["inject", "-f", str(source), "-o", str(output)]) == EXIT_USAGE
    assert capsys.readouterr().err == f"error: {message}\n  {remedy} that is there.\n"
    assert run(["inject", "-f", str(source), "-o", str(output), "--format", "json"]) == EXIT_USAGE
    assert json.loads(capsys.readouterr().out)["error"]["message"] == message


FLAGS_FOR_ONE_THING = {"--check": [], "--remove": [], "--policy": [], "-o": ["FILE"]}


@pytest.mark.parametrize(("one", "other"), [*combinations(FLAGS_FOR_ONE_THING, 2)])
def test_two_things_to_do_are_refused_and_with_an_output_file_one_is_done(
    one: str, other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "in.yaml", tmp_path / "out.yaml"
    source.write_text(FILE_1)
    output.write_text("kept")
    files = [] if "--policy" in (one, other) else ["-f", str(source)]
    code = run(["inject", *files, *(str(output) if word == "FILE" else word for flag in (one, other)
                                    for word in (flag, *FLAGS_FOR_ONE_THING[flag]))])  # fmt: skip
    is_done = other == "-o" and one != "--check"
    assert (code, output.read_text() == "kept") == (0 if is_done else 2, not is_done)
    assert is_done or re.search("exclude each other|leave out -o", capsys.readouterr().err)


@pytest.mark.parametrize("spec", ["{}", "{containers: []}", "{containers: null}"])
def test_a_pod_without_containers_stays_as_it_is(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.yaml"
    source.write_text(f"kind: Pod\nmetadata: {{name: x}}\nspec: {spec}\n")
    assert run(["inject", "-f", str(source)]) == 0
    printed = capsys.readouterr()
    assert printed.out == source.read_text()
    assert "Pod default/x: not injected: it has no containers" in printed.err


CHECKED = (
    "Deployment default/nginx-deployment: captured by istio-init;"
    " needs Pod Security privileged, because container istio-init adds NET_ADMIN, NET_RAW"
)


def test_check_says_way_level_and_dangers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.yaml"
    source.write_text(FILE_1 + "---\nkind: Pod\nmetadata: {name: h}\nspec: {hostNetwork: true, containers: []}\n")

    assert run(["inject", "-f", str(source), "--check"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{source}, document 1: {CHECKED}",
        f"{source}, document 2: Pod default/h: not injected: it uses the node's network (hostNetwork)",
    ]
    assert run(["inject", "-f", str(source), "--check", "--cni", "--format", "json"]) == 0
    first = json.loads(capsys.readouterr().out)["workloads"][0]
    assert (first["captured"], first["pod_security"]) == ("by the CNI plugin", "baseline")
    assert all("container nginx" in reason for reason in first["stricter_level_refused_for"])


@pytest.mark.parametrize("call", ["httpGet", "tcpSocket"])
@pytest.mark.parametrize("kind", ["livenessProbe", "readinessProbe", "startupProbe", "postStart", "preStop"])
def test_baseline_forbids_a_host_in_probes_and_hooks(kind: str, call: str) -> None:
    for host, level in (("", "baseline"), ("127.0.0.1", "privileged")):
        made = {kind: {call: {"port": 80, "host": host}}}
        container = {"name": "app", **(made if kind.endswith("Probe") else {"lifecycle": made})}
        assert level_of({"containers": [container]})[0] == level


@pytest.mark.parametrize(
    ("fragment", "expected"),
    [
        ("{name: proxy, image: haproxy}", "expected one container istio-proxy, found 0"),
        ("{name: istio-proxy, image: 5}", "containers[0].image: invalid value 5: expected a string"),
        ("{name: istio-proxy, image: a}, {name: istio-init}", "the name istio-init is taken"),
        ("{name: istio-proxy, image: a}, {name: b}, {name: b}", "the name b is taken"),
        ("{name: istio-proxy, image: x, env: [{value: a}]}", "containers[0].env[0]: invalid value"),
        ("{name: istio-proxy, image: x, readinessProbe: 5}", "containers[0].readinessProbe: invalid value 5"),
        *(
            (f"{{name: istio-proxy, image: x, securityContext: {{{key}: 5}}}}", f"{key}: invalid value 5")
            for key in ("capabilities", "seLinuxOptions", "seccompProfile", "appArmorProfile", "windowsOptions")
        ),
        ("{name: istio-proxy, image: x, securityContext: {runAsUser: a}}", "runAsUser of container istio-proxy"),
    ],
)
@pytest.mark.parametrize("command", [["inject", "--policy"], ["inject", "-f"]], ids=["policy", "file"])
def test_a_template_is_refused_by_place_and_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fragment: str, expected: str, command: list[str]
) -> None:
    (tmp_path / "fragment.yaml").write_text(f"containers: [{fragment}]\n")
    (tmp_path / "pod.yaml").write_text(FILE_1)
    files = [str(tmp_path / "pod.yaml")] if command[-1] == "-f" else []

    assert run([*command, *files, "--proxy-file", str(tmp_path / "fragment.yaml")]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("uid", ["1,2", "web"])
def test_a_policy_is_made_for_the_requested_users_alone(capsys: pytest.CaptureFixture[str], uid: str) -> None:
    assert run(["inject", "--policy", "--set", f"proxy-uid={uid}"]) == 2
    assert f"--proxy-uid: invalid value '{uid}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("printed", "code", "expected"),
    [
        ("x", 1, "--output=json` printed no list of objects: 'x\\n'\n  Look what `kubectl` is in PATH"),
        ('{"kind": "List", "items": 5}', 1, "--output=json` printed no list of objects: "),
        (
            '{"kind": "List", "items": [{"kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": 5}}]}',
            0,
            "Pod default/a: not captured: spec.containers: invalid value 5: expected a list",
        ),
    ],
)
def test_the_output_of_kubectl_is_not_trusted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    printed: str,
    code: int,
    expected: str,
) -> None:
    _install_kubectl(tmp_path, monkeypatch, f"echo '{printed}'")
    assert run(["inject", "--check", "--cluster"]) == code
    output = capsys.readouterr()
    assert expected in output.out + output.err


def _install_kubectl(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (directory / "kubectl").write_text(f"#!/bin/sh\n{script}\n")
    (directory / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")


def test_lines_of_kubectls_log_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = "E1128 10:00:00.000001 7 memcache.go:265] no answer"
    _install_kubectl(tmp_path, monkeypatch, f"echo '{log}' >&2; echo 'the server was refused' >&2; exit 1")
    assert run(["inject", "--check", "--cluster"]) == 1
    first, remedy = capsys.readouterr().err.splitlines()
    assert first.endswith("ended with status 1: the server was refused")
    assert remedy.startswith("  Name a cluster that answers: ")


@pytest.mark.parametrize("words", [("--image", ""), ("--init-image", "a b"), ("-n", "")])
def test_no_pod_gets_an_image_or_a_namespace_that_cannot_be_one(
    words: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "pod.yaml"
    source.write_text(FILE_1)
    assert run(["inject", "-f", str(source), *words]) == 2
    assert f": invalid value {words[1]!r}: expected " in capsys.readouterr().err

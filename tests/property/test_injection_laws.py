"""Laws of injection, for manifests in every layout."""

import json
from functools import partial

import yaml
from hypothesis import Phase, given, reject, settings
from hypothesis import strategies as st

from capture.model.ruleset import only
from capture.settings.config import CaptureConfig, resolve
from capture.settings.settings import Settings
from capture.system.pod_host import AnyPod
from injection.inject import Result, inject
from injection.pods import POD_PATHS, workloads
from injection.remove import remove
from injection.settings import parse_set
from injection.template import Fragment, InjectionError, Template
from injection.yaml_text import without_tabs
from sidecar.pod_settings import settings_of_object
from support.generators.manifests import manifests

SMALL = Fragment(
    containers=({"name": "istio-proxy", "image": "proxy:1", "args": ['it\'s "quoted"', "two\nlines"]},),
    init_containers=({"name": "prepare", "image": "proxy:1"},),
    volumes=({"name": "sockets", "emptyDir": {}},),
)
TEMPLATES = tuple(
    Template(uses_plugin=plugin, is_native=native, fragment=SMALL)
    for plugin in (False, True)
    for native in (False, True)
)
templates = st.sampled_from(TEMPLATES)
NOTHING = Settings({})
load_all = partial(yaml.load_all, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
slow = settings(max_examples=settings().max_examples // 2, phases=[Phase.explicit, Phase.generate])


def injected(text: str, template: Template, base: Settings = NOTHING) -> Result:
    """Inject; what the plugin cannot learn is another example's business."""
    try:
        return inject(text, "m", template, base)
    except InjectionError as error:
        if template.uses_plugin and ("the CNI plugin leaves" in str(error) or "--proxy-uid" in str(error)):
            reject()
        raise


@slow
@given(manifests, templates, templates)
def test_twice_is_once_and_removing_gives_the_original_back(text: str, template: Template, other: Template) -> None:
    once = injected(text, template).text

    assert injected(once, template).text == once
    assert remove(once, "m") == text
    assert injected(once, other).text == injected(text, other).text


@settings(slow, max_examples=settings().max_examples // 4)
@given(manifests, templates)
def test_a_manifest_written_anew_means_the_original_without_the_injection(text: str, template: Template) -> None:
    """As the API server does: nothing of the text is left."""
    documents = list(load_all(without_tabs(injected(text, template).text)))
    for anew in ("\n---\n".join(map(json.dumps, documents)), yaml.safe_dump_all(documents)):
        assert list(load_all(without_tabs(remove(anew, "m")))) == list(load_all(without_tabs(text)))
        assert injected(injected(anew, template).text, template).text == injected(anew, template).text


@slow
@given(manifests, templates)
def test_objects_that_are_not_injected_stay(text: str, template: Template) -> None:
    result = injected(text, template)
    before, after = list(load_all(without_tabs(text))), list(load_all(without_tabs(result.text)))
    untouched = {outcome.document for outcome in result.outcomes if not outcome.injected}
    touched = {outcome.document for outcome in result.outcomes if outcome.injected}

    assert len(before) == len(after)
    for number, (old, new) in enumerate(zip(before, after, strict=True), 1):
        if number in touched:
            _assert_grown(old, new)
        elif number in untouched or old == new:
            assert old == new
    if not touched:
        assert result.text == text


def _assert_grown(old: object, new: object) -> None:
    """Everything that is not one of our containers, or null, is in the new document, too."""
    if isinstance(old, dict) and old.get("name") not in ("istio-proxy", "istio-init"):
        assert isinstance(new, dict)
        for key, value in old.items():
            if value is not None and key != "traffic.sidecar.istio.io/excludeInboundPorts":
                _assert_grown(value, new[key])
    elif isinstance(old, list) and old and isinstance(old[0], dict) and "name" in old[0]:
        assert isinstance(new, list)
        names = [one["name"] for one in new]
        assert len(set(names)) == len(names)
        for one in old:
            if one["name"] in ("istio-proxy", "istio-init"):
                continue  # laid over the injected one, and maybe elsewhere
            _assert_grown(one, new[names.index(one["name"])])
    elif not isinstance(old, dict):
        assert old == new or isinstance(old, list)


@slow
@given(
    manifests,
    st.booleans(),
    st.lists(
        st.sampled_from((
            "istio-service-exclude-cidr=10.0.0.0/8",
            "istio-local-exclude-ports=9000",
            "istio-inbound-interception-mode=TPROXY",
            "istio-local-outbound-ports-exclude=15020,3306",
            "proxy-uid=2000",
            "istio-inbound-ports=80,443",
        )),
        max_size=3,
        unique_by=lambda text: text.partition("=")[0],
    ),
)  # fmt: skip
def test_arguments_and_annotations_say_the_same(text: str, native: bool, sets: list[str]) -> None:  # noqa: FBT001  # drawn
    base = parse_set(tuple(sets))
    by_plugin = injected(text, Template(is_native=native, uses_plugin=True), base)
    by_init = injected(text, Template(is_native=native), base)

    outcomes = [outcome for outcome in by_init.outcomes if outcome.workload.kind in POD_PATHS]
    pods = zip(_pods(by_init.text), _pods(by_plugin.text), outcomes, strict=True)
    for init, plugin, outcome in pods:
        if outcome.injected:
            assert _config(init) == _config(plugin)


def _pods(text: str) -> list[dict[str, object]]:
    documents = load_all(without_tabs(text))
    return [workload.pod for document in documents for workload in workloads(document)]


def _config(pod: dict[str, object]) -> CaptureConfig:
    config = resolve(settings_of_object(pod, "m"), AnyPod())[0]
    # The order means nothing, and the plugin always leaves 15020 alone.
    ports = tuple(sorted({*config.excluded_inbound_ports, only(15020)}, key=repr))
    return config.replace(excluded_inbound_ports=ports)

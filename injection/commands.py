"""``capture inject``."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from capture.cli.input import origin_of, read_input
from capture.cli.options import command, format_option
from capture.cli.parameter_types import ParameterType, word_type
from capture.errors import EXIT_DONE
from capture.model.values import Value
from capture.report.output import print_json, warn
from capture.report.terminal import print_lines
from capture.settings.settings import Settings
from cni.conf import is_label
from injection.admission_policy import VERSIONS, policy_objects
from injection.check import Report, report
from injection.inject import Result
from injection.inject import inject as inject_text
from injection.remove import remove
from injection.settings import parse_set
from injection.template import ENVOY_IMAGE, INIT_IMAGE, InjectionError, Template, read_fragment, read_mesh_files
from injection.yaml_text import as_yaml

IMAGE_TYPE = ParameterType(str, "the name of an image", lambda name: name and not re.search(r"\s", name))
INJECT_EXAMPLES = """
capture inject -f deployment.yaml | kubectl apply -f -
kubectl get deployment nginx -o yaml | capture inject -f - --cni | kubectl apply -f -
capture inject -f deployment.yaml --proxy-file haproxy.yaml --set istio-service-exclude-cidr=10.0.0.0/8
capture inject -f deployment.yaml --mesh-file mesh.yaml --mesh-file services.yaml
capture inject -f deployment.yaml --check
capture inject -f injected.yaml --remove
capture inject --policy | kubectl apply -f -       # then: kubectl label namespace shop istio-injection=enabled
"""


@command(
    INJECT_EXAMPLES,
    click.Option(["-f", "--filename", "filenames"], metavar="FILE", multiple=True,
                 help="A manifest, or - for standard input; repeatable."),
    click.Option(["-o", "--output"], metavar="FILE", help="Write the result there instead of standard output."),
    click.Option(["--cni"], is_flag=True,
                 help="Leave the rules to the CNI plugin: no istio-init, but a container that proves them."),
    click.Option(["--proxy-file"], metavar="FILE",
                 help="Containers and volumes to add, with istio-proxy; instead of Envoy."),
    click.Option(["--mesh-file", "mesh_files"], metavar="FILE", multiple=True,
                 help="Objects for Envoy's bootstrap; as for `capture sidecar`."),
    click.Option(["--no-native"], is_flag=True, help="Put the proxy among the containers (Kubernetes before 1.29)."),
    click.Option(["--image"], type=IMAGE_TYPE, default=ENVOY_IMAGE, show_default=True, metavar="IMAGE",
                 help="Envoy's image."),
    click.Option(["--init-image"], type=IMAGE_TYPE, default=INIT_IMAGE, show_default=True, metavar="IMAGE",
                 help="The image of istio-init, as the nodes find it in your registry."),
    click.Option(["--set", "sets"], metavar="OPTION=VALUE", multiple=True,
                 help="An option of the capture for all pods; annotations beat it."),
    click.Option(["-n", "--namespace"], default="default", show_default=True, metavar="NAME",
                 type=ParameterType(str, "a namespace of Kubernetes, such as shop", is_label),
                 help="Namespace of what names none."),
    click.Option(["--check"], is_flag=True,
                 help="Write nothing; print what would be captured of each workload, and what is dangerous."),
    click.Option(["--cluster"], is_flag=True, help="With --check: check the running pods, by kubectl."),
    click.Option(["--remove", "removes"], is_flag=True, help="Take out what was injected."),
    click.Option(["--policy"], is_flag=True,
                 help="Print a MutatingAdmissionPolicy that does the same in the API server."),
    click.Option(["--api-version"], type=word_type(*VERSIONS), default=VERSIONS[0], show_default=True,
                 help="Of the policy: v1 from Kubernetes 1.36; v1beta1 in 1.34 and 1.35, with its feature gate."),
    format_option("text", "json"),
)  # fmt: skip
def inject(
    filenames: tuple[str, ...],
    output: str | None,
    *,
    check: bool,
    cluster: bool,
    removes: bool,
    form: str,
    policy: bool,
    api_version: str,
    **template_options: Any,
) -> int:
    """Put the sidecar and what captures its traffic into the pods of a manifest.

    Everything else stays byte for byte, comments and layout included. A second run changes nothing; --remove restores
    the original.
    """
    kinds = {"--check": check, "--remove": removes, "--policy": policy}
    _require_consistent(filenames, output, kinds, cluster=cluster)
    if cluster:
        from injection.cluster import running_pod_reports

        _print_check(running_pod_reports(), form)
    elif removes:
        _write_result([remove(read_input(name), origin_of(name)) for name in filenames], output, form)
    else:
        base, namespace = parse_set(template_options.pop("sets")), template_options.pop("namespace")
        template = _chosen_template(**template_options)
        if policy:
            _write_result([as_yaml(policy_objects(template, base, api_version))], output, form)
        else:
            injected = [_inject_file(name, template, base, namespace) for name in filenames]
            reports = [report(each.origin, outcome, template) for each in injected for outcome in each.result.outcomes]
            if check:
                _print_check(reports, form)
            else:
                _write_result([each.result.text for each in injected], output, form, reports)
                for each in injected:
                    _summarise(each)
    return EXIT_DONE


def _require_consistent(
    filenames: tuple[str, ...], output: str | None, kinds: dict[str, bool], *, cluster: bool
) -> None:
    """Raise UsageError for flags that do not go together, and where there is nothing to inject."""
    chosen = [flag for flag, is_given in kinds.items() if is_given]
    if len(chosen) > 1:
        raise click.UsageError(f"{chosen[0]} and {chosen[1]} exclude each other")
    if output is not None and kinds["--check"]:
        raise click.UsageError("--check writes nothing: leave out -o")
    if cluster and (filenames or not kinds["--check"]):
        raise click.UsageError("--cluster needs --check, and takes no files")
    if kinds["--policy"] and filenames:
        raise click.UsageError("--policy takes no files: it is about pods to come")
    if not (cluster or kinds["--policy"] or filenames):
        raise click.UsageError("nothing to inject: give a manifest with -f FILE, or -f - for standard input")


def _chosen_template(
    *, cni: bool, no_native: bool, image: str, init_image: str, proxy_file: str | None, mesh_files: tuple[str, ...]
) -> Template:
    return Template(
        uses_plugin=cni,
        is_native=not no_native,
        image=image,
        init_image=init_image,
        fragment=read_fragment(proxy_file) if proxy_file else None,
        mesh_objects=read_mesh_files(mesh_files),
    )


class _Injected(Value):
    """A file after injection."""

    origin: str
    result: Result
    is_changed: bool


def _inject_file(name: str, template: Template, base: Settings, namespace: str) -> _Injected:
    text, origin = read_input(name), origin_of(name)
    result = inject_text(text, origin, template, base, namespace)
    return _Injected(origin, result, result.text != text)


def _summarise(injected: _Injected) -> None:
    """Print on stderr what became of each workload of a file."""
    done = "injected" if injected.is_changed else "unchanged: injected already"
    if not injected.result.outcomes:
        click.echo(f"{injected.origin}: no workload", err=True)
    for outcome in injected.result.outcomes:
        where = f"{injected.origin}: {outcome.workload}"
        click.echo(f"{where}: {done if outcome.injected else f'not injected: {outcome.reason}'}", err=True)
        warn(f"{where}: {warning}" for warning in outcome.warnings)


def _print_check(reports: Sequence[Report], form: str) -> None:
    if form == "json":
        print_json({"workloads": [each.as_plain() for each in reports]})
    else:
        print_lines([line for each in reports for line in each.lines] or ["no workload"])


def _write_result(texts: list[str], output: str | None, form: str, workloads: Sequence[Report] = ()) -> None:
    """Write the results one after the other, as separate documents, to a file as a whole or to standard output."""
    content = _joined_documents(texts)
    if output is not None:
        try:
            _replace_file(content.encode(), output)
        except OSError as error:
            remedy = "Name a file that you may write, in a directory that is there."
            raise InjectionError(f"cannot write {output}: {error.strerror}", remedy) from None
    if form == "json":
        plain = [each.as_plain() for each in workloads]
        print_json({"workloads": plain, "output": output, "manifest": None if output else content})
    elif output is None:
        sys.stdout.buffer.write(content.encode())
        sys.stdout.buffer.flush()


def _replace_file(content: bytes, output: str) -> None:
    """Replace a file as a whole, with its mode; a pipe or a device, such as /dev/stdout, is written to."""
    if os.path.exists(output) and not os.path.isfile(output):
        with open(output, "wb") as file:
            file.write(content)
        return
    path = os.path.realpath(output)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
        with suppress(FileNotFoundError):
            os.chmod(temporary, stat.S_IMODE(os.stat(path).st_mode))
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _joined_documents(texts: list[str]) -> str:
    joined = texts[0]
    for text in texts[1:]:
        joined += ("" if joined.endswith("\n") else "\n") + ("" if text.startswith("---") else "---\n") + text
    return joined

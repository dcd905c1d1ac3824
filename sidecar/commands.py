"""``capture sidecar``."""

from __future__ import annotations

import json
import os

import click

from capture.cli.options import capture_options, command, flags_of, format_option, namespace_options, settings_of
from capture.cli.parameter_types import ParameterType
from capture.errors import CaptureError
from capture.model.addresses import parse_address
from capture.report.output import print_json, warn
from capture.settings.config import CaptureConfig, resolve
from capture.settings.pod import with_all_dns
from capture.settings.settings import Settings, with_flags
from capture.state import record
from capture.system.netns import InNamespace
from capture.system.pod_host import AnyPod
from sidecar import endpoints
from sidecar.bootstrap import MeshObjects, destinations, read_mesh_objects, render_bootstrap
from sidecar.documents import Document, read_files
from sidecar.objects import DEFAULT_NAMESPACE, MeshPod
from sidecar.pod_settings import settings_of_object

SIDECAR_EXAMPLES = """
capture sidecar --filename mesh.yaml --filename services.yaml --pod default/productpage > envoy.json
kubectl get services,endpointslices,pods -o yaml | capture sidecar --filename - --pod default/productpage
capture sidecar --pid 4711 --filename services.yaml --endpoints /etc/envoy/endpoints > envoy.json
capture sidecar -m TPROXY --redirect-dns --capture-all-dns --resolver 10.96.0.10
"""


def _is_pod_name(text: str) -> bool:
    """Return whether a text is the name of a pod, with or without its namespace (RFC 1123, "subdomain")."""
    parts = text.replace("-", "a").replace(".", "a").split("/")
    return len(parts) <= 2 and all(part.isascii() and part.isalnum() for part in parts)


@command(
    SIDECAR_EXAMPLES,
    *capture_options(),
    *namespace_options(),
    click.Option(
        ["--filename", "-f", "filenames"],
        metavar="FILE",
        multiple=True,
        help="Mesh config, Telemetry, Service, EndpointSlice, DestinationRule, Pod as YAML; - for standard input;"
        " repeat it.",
    ),
    click.Option(
        ["--pod", "name"],
        type=ParameterType(str, "NAMESPACE/NAME, such as default/web-0", _is_pod_name),
        metavar="NAMESPACE/NAME",
        help="The pod whose sidecar it is.",
    ),
    click.Option(
        ["--endpoints", "directory"],
        metavar="DIR",
        help="Write the endpoints as files there, which Envoy watches: run it again when they change.",
    ),
    click.Option(
        ["--endpoints-path", "path_for_envoy"],
        metavar="DIR",
        help="Where Envoy finds that directory, such as the mount of a ConfigMap.  [default: the same]",
    ),
    click.Option(
        ["--resolver", "resolvers"],
        type=ParameterType(str, "an IP address", parse_address),
        metavar="ADDRESS",
        multiple=True,
        help="Name server for what is no service, where DNS is captured; repeatable.",
    ),
    click.Option(["--compact"], is_flag=True, help="Print it in one line."),
    format_option("envoy", "json"),
)
@click.pass_context
def sidecar(  # noqa: PLR0913  # each is an option of the command
    ctx: click.Context,
    /,
    namespace: str | None,
    filenames: tuple[str, ...],
    name: str | None,
    directory: str | None,
    path_for_envoy: str | None,
    resolvers: tuple[str, ...],
    form: str,
    *,
    compact: bool,
) -> int:
    """Print Envoy's bootstrap for a captured pod.

    Ports, mode and families come from where the rules come from, so that the two agree: with --netns or --pid from
    what was applied there; else from the pod, if it is among the files; options of the capture beat it. A field of
    the files that is not supported is an error that names its path.
    """
    documents = read_files(filenames)
    mesh_objects = read_mesh_objects(documents)
    pod, document = _pod(mesh_objects, documents, name)
    if name and namespace is None and mesh_objects.pods and document is None:
        raise CaptureError(f"no pod {name} among the files", "Without any pod there, the options describe it.")
    config = _pod_config(ctx, namespace, document)
    path = path_for_envoy or (os.path.abspath(directory) if directory else "")
    plain = render_bootstrap(
        config, mesh_objects, pod, directory=path, resolvers=resolvers or _recorded_servers(config)
    )
    if directory:
        endpoints.write(destinations(config, mesh_objects, pod), directory)
    if form == "json":
        print_json({"bootstrap": plain})
        return 0
    click.echo(json.dumps(plain, separators=(",", ":")) if compact else json.dumps(plain, indent=1))
    return 0


def _pod(mesh_objects: MeshObjects, documents: list[Document], name: str | None) -> tuple[MeshPod, Document | None]:
    """Return the pod and its object, if it is among the documents; the only one there needs no name."""
    objects = {f"Pod {pod.full_name}": pod for pod in mesh_objects.pods}
    if name is None and len(mesh_objects.pods) == 1:
        name = mesh_objects.pods[0].full_name
    namespace, slash, short = (name or "pod").rpartition("/")
    title = f"Pod {namespace if slash else DEFAULT_NAMESPACE}/{short}"
    document = next((document for document in documents if document.name == title), None)
    return objects.get(title, MeshPod(namespace or DEFAULT_NAMESPACE, short)), document


def _pod_config(ctx: click.Context, namespace: str | None, document: Document | None) -> CaptureConfig:
    """Return what the capture is: as recorded, or as the pod, the environment and the options request."""
    if namespace is not None:
        if flags_of(ctx):
            raise click.UsageError("--netns and --pid take what was applied there; options of the capture exclude them")
        return _recorded_config(namespace)
    settings = settings_of(ctx)
    if document is not None:
        own = settings_of_object(document.plain, document.origin)
        settings = with_flags(Settings({**settings.explicit, **own.explicit}), flags_of(ctx))
    config, warnings = resolve(with_all_dns(settings), AnyPod())
    warn(warnings)
    return config


def _recorded_config(namespace: str) -> CaptureConfig:
    with InNamespace(namespace):
        recorded = record.read()
    if recorded is None:
        raise CaptureError(
            f"nothing is recorded for the network namespace {namespace}",
            "Leave out --netns and --pid, and give the options with which it was captured.",
        )
    return resolve(recorded.settings, recorded.answers)[0]


def _recorded_servers(config: CaptureConfig) -> tuple[str, ...]:
    return tuple(server.shown for server in config.name_servers)

"""``capture cni install``, ``status`` and ``uninstall``: the plugin on a node."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from shlex import quote
from typing import Any

import click

from capture.cli.options import CommandGroup, command, format_option
from capture.cli.parameter_types import ParameterType, number_type, word_type
from capture.errors import EXIT_DRIFT, CaptureError
from capture.report.output import VerdictLine, print_json, warn
from capture.report.terminal import print_lines
from capture.settings.options import PROFILE
from capture.settings.parsers import PROFILES
from cni import conf, entries, istio_cni, kubeconfig_file, runtimes
from cni import install as installer
from cni.install import OWN_CONFIG_NAME, DesiredConfiguration
from cni.install_error import explained_errors
from cni.log import DEFAULT_FILE, LEVEL_NUMBERS
from cni.networks import PLUGIN, ListChoice, read_network
from cni.plugin_files import BUNDLE_MARK, FileChange
from cni.protocol import CniError
from cni.runtimes import Runtime

INSTALL_EXAMPLES = """
capture cni install --exclude-namespace kube-system
capture cni install --kubeconfig /etc/cni/net.d/capture-kubeconfig --log-file /var/log/istio-capture/cni.log
capture cni install --own-config            # a list of our own, which others do not rewrite
capture cni install --bin-dir /var/lib/rancher/k3s/data/cni --conf-dir /var/lib/rancher/k3s/agent/etc/cni/net.d
"""
CNI_STATUS_EXAMPLES = """
capture cni status
capture cni status --format json | jq '.findings[] | select(.state == "error")'
"""
CNI_UNINSTALL_EXAMPLES = """
capture cni uninstall
capture cni uninstall --grace 30            # pods that end just now can still be ended
"""


@click.group("cni", cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
def cni_group() -> None:
    """Put the CNI plugin on a node, look at it, or take it away."""


def _entry_value(key: str, expected: str) -> ParameterType:
    """Return the type of texts that the plugin takes for a key of its entry; an empty one leaves the key out."""

    def accepts(text: str) -> bool:
        try:
            return not text or bool(conf.parse_configuration({key: text}))
        except CniError:
            return False

    return ParameterType(str, expected, accepts)


LIST_NAME = ParameterType(
    str,
    "a file name that ends with .conflist",
    lambda text: not text or (os.path.basename(text) == text and text.endswith(".conflist")),
)
AGENT_POD = ParameterType(
    lambda text: dict(zip(("namespace", "name_prefix"), text.partition("/")[::2], strict=True)),
    "NAMESPACE/PREFIX, such as istio-system/capture-agent-",
    lambda pod: conf.is_label(pod["namespace"]) and pod["name_prefix"],
)
DIRECTORY_OPTIONS = [
    click.Option(["--bin-dir"], metavar="DIR",
                 help="Where the container runtime looks for plugins."
                 f"  [default: {runtimes.BIN_DIR}, or the runtime's]"),
    click.Option(["--conf-dir"], metavar="DIR",
                 help=f"Where it looks for network configurations.  [default: {runtimes.CONF_DIR}, or the runtime's]"),
]  # fmt: skip
CHOICE_OPTIONS = [
    click.Option(["--runtime", "runtime_name"], type=word_type("auto", "containerd", "crio"), default="auto",
                 show_default=True, help="The container runtime by whose rules the list is chosen."),
    click.Option(["--network"], metavar="NAME", default="",
                 help="Take the list of this network.  [default: the one that the container runtime takes]"),
]  # fmt: skip
ENTRY_OPTIONS = [
    click.Option(["--own-config"], type=LIST_NAME, metavar="[NAME]",
                 is_flag=False, flag_value=OWN_CONFIG_NAME, default="",
                 help=f"Write a list of our own, {OWN_CONFIG_NAME} or NAME, that sorts before the one that is taken."),
    click.Option(["--exclude-namespace", "exclude_namespaces"], metavar="NAMESPACE", multiple=True,
                 type=ParameterType(str, "a namespace of Kubernetes, such as kube-system", conf.is_label),
                 help="Kubernetes namespace whose pods are left alone; repeatable."),
    click.Option(["--log-file"], metavar="PATH", default=DEFAULT_FILE, show_default=True,
                 type=_entry_value("log_file", "the absolute path of a file, no device"),
                 help="Where the plugin logs to, on the node; the file is rotated at 10 MB. Empty: nowhere."),
    click.Option(["--log-level"], type=word_type(*LEVEL_NUMBERS), help="How much is logged.  [default: info]"),
    *(click.Option([f"--{key.replace('_', '-')}", key], type=_entry_value(key, option.expected), metavar="NAME",
                   help=option.help)
      for key, option in conf.CAPTURE_OPTIONS.items()),
]  # fmt: skip
"""The options of the plugin's entry, whichever program writes it."""
SOURCE_OPTIONS = [
    click.Option(["--plugin"], metavar="PATH",
                 help=f"The executable {PLUGIN}, or a directory with it.  [default: the one installed with capture]"),
    click.Option(["--kubeconfig"], type=_entry_value("kubeconfig", "an absolute path"), metavar="PATH",
                 help="How the plugin reaches the API server: JSON, or YAML, which is converted."),
    click.Option(["--pod-source", "pod_sources"], type=word_type(*conf.POD_SOURCES), multiple=True,
                 help="Where facts about a pod come from; repeatable, in order."
                 "  [default: runtime, and kubernetes with a kubeconfig]"),
    click.Option(["--agent-pod"], type=AGENT_POD, metavar="NAMESPACE/PREFIX",
                 help="Our node agent's pods, which are left alone: their namespace, and how their names begin."),
]  # fmt: skip


INSTALL_OPTIONS = (*DIRECTORY_OPTIONS, *CHOICE_OPTIONS, *SOURCE_OPTIONS, *ENTRY_OPTIONS)


@command(INSTALL_EXAMPLES, *INSTALL_OPTIONS, format_option("text", "json"), group=cni_group)
def install(
    bin_dir: str | None,
    conf_dir: str | None,
    runtime_name: str,
    network: str,
    plugin: str | None,
    own_config: str,
    form: str,
    **values: Any,
) -> int:
    """Put the plugin into the bin directory, and its entry into the network configuration.

    The entry goes into the list that the container runtime takes; a single plugin becomes a list, until the entry
    is removed. An entry of Istio's own plugin is replaced, and its configuration is taken over. Files are replaced as a
    whole, with mode and owner, and never over a change that another program makes meanwhile. A second run changes
    nothing.
    """
    runtime = _named_runtime(runtime_name)
    bin_path, conf_path = _chosen_paths(runtime, bin_dir, conf_dir)
    choice = runtime.choice(network, bin_path)
    source = plugin or installed_plugin()
    upstream = _istio_entry(conf_path, choice)
    entry = _desired_entry(values, upstream.entry)
    _require_source(runtime, conf_path, entry, values)
    changes, warnings = _with_kubeconfig(entry, conf_path)
    replaced = () if upstream.must_stay else (istio_cni.ISTIO_CNI,)
    changes += installer.install(source, bin_path, DesiredConfiguration(conf_path, entry, own_config, choice, replaced))
    warnings += upstream.warnings or _rival_warnings(conf_path)
    warn(warnings)
    print_changes(map(str, changes), form, "unchanged: the plugin and its entry are in place", warnings)
    return 0


@command(CNI_STATUS_EXAMPLES, *DIRECTORY_OPTIONS, *CHOICE_OPTIONS, format_option("text", "json"), group=cni_group)
def status(bin_dir: str | None, conf_dir: str | None, runtime_name: str, network: str, form: str) -> int:
    """Print which list the runtime takes and why, and whether entry, plugin, kubeconfig and token are in order.

    It changes nothing. The exit code is 4 if something keeps pods from being captured or from starting.
    """
    from cni import status as node

    runtime = _named_runtime(runtime_name)
    bin_path, conf_path = _chosen_paths(runtime, bin_dir, conf_dir)
    with explained_errors(conf_path):
        state = node.examine_node(bin_path, conf_path, runtime, network)
    options = (("--bin-dir", bin_dir), ("--conf-dir", conf_dir), ("--network", network))
    state = node.with_options(state, "".join(f" {option} {quote(value)}" for option, value in options if value))
    if form == "json":
        print_json(node.as_plain(state))
    else:
        node.show(state)
    return 0 if state.works else EXIT_DRIFT


@command(
    CNI_UNINSTALL_EXAMPLES,
    *DIRECTORY_OPTIONS,
    click.Option(["--keep-plugin"], is_flag=True, help="Keep the executable, which pods that run need when they end."),
    click.Option(["--grace"], type=number_type(0, kind=float), metavar="SECONDS", default=5.0, show_default=True,
                 help="How long runtimes may still call the plugin after its entry is gone."),
    format_option("text", "json"),
    group=cni_group,
)  # fmt: skip
def uninstall(bin_dir: str | None, conf_dir: str | None, grace: float, form: str, *, keep_plugin: bool) -> int:
    """Take the plugin's entry out of the network configuration, then remove the plugin.

    Pods that run keep their rules. A runtime that has cached the configuration of a pod (CRI-O does) calls the plugin
    when the pod ends; on such a node drain it first, or keep the plugin.
    """
    bin_path, conf_path = _chosen_paths(_named_runtime("auto"), bin_dir, conf_dir)
    if not (bin_dir or conf_dir or os.path.isdir(bin_path) or os.path.isdir(conf_path)):  # no runtime is here
        print_changes([], form, "nothing to remove")
        return 0
    changes = installer.uninstall(bin_path, conf_path, grace, keep_plugin=keep_plugin)
    with explained_errors(conf_path):
        changes += kubeconfig_file.remove(entries.own_directory(conf_path))
    print_changes(map(str, changes), form, "nothing to remove")
    return 0


def _named_runtime(name: str) -> Runtime:
    if name == "auto":
        return runtimes.detect()
    return (runtimes.crio if name == "crio" else runtimes.containerd)(evidence="--runtime")


def _chosen_paths(runtime: Runtime, bin_dir: str | None, conf_dir: str | None) -> tuple[str, str]:
    writable = [each for each in runtime.bin_dirs if os.access(each, os.W_OK)]
    return os.path.abspath(bin_dir or [*writable, *runtime.bin_dirs][0]), os.path.abspath(conf_dir or runtime.conf_dir)


def _rival_warnings(conf_dir: str) -> list[str]:
    """Return a warning if Istio's plugin captures pods, too, by another list of this node."""
    rival = istio_cni.rival_finding([conf_dir, *istio_cni.CONFIGURATIONS])
    return [f"{rival.message}. {rival.remedy}"] if rival and rival.state == "warning" else []


def _istio_entry(conf_dir: str, choice: ListChoice) -> istio_cni.IstioEntry:
    """Return the configuration of Istio's plugin that our entry will replace, or has; installing reports errors."""
    try:
        network = installer.main_network(conf_dir, choice)
        upstream = istio_cni.read_entry(network)
        if upstream is istio_cni.NO_ENTRY and network.entries:
            return istio_cni.replaced_entry(network, read_network(entries.kept_original(network.path), timeout=0))
    except (CaptureError, OSError):
        return istio_cni.NO_ENTRY
    return upstream


def _desired_entry(values: dict[str, Any], upstream: dict[str, Any]) -> dict[str, Any]:
    entry = {"profile": PROFILES[-1]} | upstream | {name: value for name, value in values.items() if value}
    entry, read = checked_entry(entry)
    return entry | {"profile": read.settings[PROFILE]}  # the version, which stays what it is


def checked_entry(values: dict[str, Any], **assumed: str) -> tuple[dict[str, Any], conf.Configuration]:
    """Return an entry with these values, and what the plugin will read there, so that a mistake shows now.

    ``assumed`` is what comes into the entry later.
    """
    explicit = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value}
    entry = {"capabilities": {conf.ANNOTATIONS_CAPABILITY: True}} | explicit
    try:
        return entry, conf.parse_configuration(entry | assumed)
    except CniError as error:
        raise click.UsageError(error.message) from None


def _require_source(runtime: Runtime, conf_dir: str, entry: dict[str, Any], values: dict[str, Any]) -> None:
    """Raise where the plugin would know nothing about any pod."""
    why = runtime.without_annotations
    if "multus" in conf_dir.split("/"):
        why = f"{conf_dir} is for networks that Multus delegates to, and Multus hands them no annotations of pods"
    if why and not entry.get("kubeconfig") and not values["pod_sources"]:
        raise CaptureError(
            f"{why}: without another source nothing would be known about any pod of this node. Nothing was installed.",
            "Name a kubeconfig (--kubeconfig), or install the node's agent.",
        )


def _with_kubeconfig(entry: dict[str, Any], conf_dir: str) -> tuple[list[FileChange], list[str]]:
    """Let the entry name a kubeconfig that the plugin can use; return what was written, and warnings."""
    if not entry.get("kubeconfig"):
        return [], []
    with explained_errors(conf_dir):
        entry["kubeconfig"], changes, warnings = kubeconfig_file.prepare_for_plugin(
            str(entry["kubeconfig"]), entries.own_directory(conf_dir)
        )
    return changes, warnings


def installed_plugin() -> str:
    """Return the plugin that came together with this program."""
    own = os.path.dirname(os.path.abspath(sys.argv[0])) if "/" in sys.argv[0] else ""
    candidates = [os.path.join(directory, PLUGIN) for directory in (_running_bundle(), own) if directory]
    program = next((path for path in candidates if os.access(path, os.X_OK)), None) or shutil.which(PLUGIN)
    if not program:
        raise click.UsageError(f"no {PLUGIN} in this program's directory or in PATH; name it with --plugin PATH")
    return program


def _running_bundle() -> str:
    """Return the bundle that this program runs from, if it does: what the kernel has started is its dynamic linker."""
    started = os.readlink("/proc/self/exe")
    directory, _, rest = started.rpartition(f"/{BUNDLE_MARK}")
    return directory if directory and not rest else ""


def print_changes(changes: Iterable[str], form: str, nothing: str, warnings: Sequence[str] = ()) -> None:
    """Print what was changed, or that nothing was."""
    listed = list(changes)
    if form == "json":
        print_json({"changes": listed, "warnings": list(warnings)})
    else:
        print_lines(listed or [VerdictLine(nothing)])

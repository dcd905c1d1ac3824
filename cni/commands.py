"""``capture cni install`` and ``capture cni uninstall``: the plugin on a node."""

from __future__ import annotations

import os
import shutil
import sys

import click

from capture.cli.options import CaptureCommand
from capture.errors import CaptureError
from capture.settings.options import PROFILE
from capture.settings.parsers import PROFILES
from cni import conf
from cni import install as installer
from cni.install import OWN_CONFIG, PLUGIN, Change
from cni.log import LEVELS
from cni.protocol import SUPPORTED_VERSIONS, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeVar

    Function = TypeVar("Function", bound=Callable[..., Any])

INSTALL_EXAMPLES = """
capture cni install --exclude-namespace kube-system
capture cni install --kubeconfig /etc/cni/net.d/capture-kubeconfig --log-file /var/log/istio-capture/cni.log
capture cni install --own-config            # a list of our own, which others do not rewrite
capture cni install --bin-dir /var/lib/rancher/k3s/data/cni --conf-dir /var/lib/rancher/k3s/agent/etc/cni/net.d
"""
UNINSTALL_EXAMPLES = """
capture cni uninstall
capture cni uninstall --grace 30            # pods that end just now can still be ended
"""


@click.group("cni", context_settings={"help_option_names": ["-h", "--help"]})
def cni_group() -> None:
    """Put the CNI plugin on a node, or take it away."""


def _directories(function: Function) -> Function:
    """Add the options that say where the container runtime looks."""
    add_bin = click.option(
        "--bin-dir",
        metavar="DIR",
        default="/opt/cni/bin",
        show_default=True,
        help="Where the container runtime looks for plugins.",
    )
    add_conf = click.option(
        "--conf-dir",
        metavar="DIR",
        default="/etc/cni/net.d",
        show_default=True,
        help="Where it looks for network configurations.",
    )
    return add_bin(add_conf(function))


@cni_group.command("install", cls=CaptureCommand, examples=INSTALL_EXAMPLES)
@_directories
@click.option(
    "--plugin",
    metavar="PATH",
    help=f"The executable {PLUGIN}, or a directory with it.  [default: the one installed with capture]",
)
@click.option(
    "--own-config",
    metavar="[NAME]",
    is_flag=False,
    flag_value=OWN_CONFIG,
    default="",
    help=f"Write a list of our own, {OWN_CONFIG} or NAME, instead of an entry into the list that sorts first.",
)
@click.option("--kubeconfig", metavar="PATH", help="How the plugin reaches the API server; a path on the node.")
@click.option(
    "--pod-source",
    "pod_sources",
    type=click.Choice(conf.POD_SOURCES),
    multiple=True,
    help="Whom to ask about a pod, in this order; repeat it.  [default: runtime, and kubernetes with a kubeconfig]",
)
@click.option(
    "--exclude-namespace",
    "exclude_namespaces",
    metavar="NAMESPACE",
    multiple=True,
    help="Kubernetes namespace whose pods are left alone; repeat it.",
)
@click.option(
    "--agent-pod",
    metavar="NAMESPACE/PREFIX",
    help="Our node agent's pods, which are left alone: their namespace, and how their names begin.",
)
@click.option("--log-file", metavar="PATH", help="Where the plugin logs to, on the node.  [default: nowhere]")
@click.option("--log-level", type=click.Choice(list(LEVELS)), help="How much it logs.  [default: info]")
@click.option(
    "--profile",
    metavar="NAME",
    default=PROFILES[-1],
    show_default=True,
    help=conf.CAPTURE_OPTIONS["profile"].help,
)
@click.option("--ip-families", metavar="FAMILIES", help=conf.CAPTURE_OPTIONS["ip_families"].help)
@click.option("--other-family", metavar="WHAT", help=conf.CAPTURE_OPTIONS["other_family"].help)
@click.option("--chain-names", metavar="SPELLING", help=conf.CAPTURE_OPTIONS["chain_names"].help)
@click.option("--backend", metavar="NAME", help=conf.CAPTURE_OPTIONS["backend"].help)
@click.option("--driver", metavar="NAME", help=conf.CAPTURE_OPTIONS["driver"].help)
def install(bin_dir: str, conf_dir: str, plugin: str | None, own_config: str, **values: Any) -> int:
    """Put the plugin into the bin directory, and its entry into the network configuration.

    The entry goes into the list that sorts first among the files of the configuration directory; a single plugin
    becomes a list. Files are replaced as a whole, with mode and owner, and never over a change that another program
    makes meanwhile. Doing it again changes nothing.
    """
    if own_config and (os.path.basename(own_config) != own_config or not own_config.endswith(".conflist")):
        raise click.BadParameter("expected a file name that ends with .conflist", param_hint="--own-config")
    entry = _entry(values)
    if values["kubeconfig"]:
        _require_usable(values["kubeconfig"])
    changes = installer.install(
        plugin or _installed_plugin(),
        os.path.abspath(bin_dir),
        os.path.abspath(conf_dir),
        entry,
        SUPPORTED_VERSIONS,
        own_config,
    )
    _say(changes, "unchanged: the plugin and its entry are in place")
    return 0


@cni_group.command("uninstall", cls=CaptureCommand, examples=UNINSTALL_EXAMPLES)
@_directories
@click.option("--keep-plugin", is_flag=True, help="Leave the executable, for pods that are still to be ended with it.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=5.0,
    show_default=True,
    help="How long runtimes may still call the plugin after its entry is gone.",
)
def uninstall(bin_dir: str, conf_dir: str, grace: float, *, keep_plugin: bool) -> int:
    """Take the plugin's entry out of the network configuration, then remove the plugin.

    Pods that run keep their rules. A runtime that has cached the configuration of a pod (CRI-O does) calls the plugin
    when the pod ends; on such a node drain it first, or keep the plugin.
    """
    changes = installer.uninstall(os.path.abspath(bin_dir), os.path.abspath(conf_dir), grace, keep_plugin=keep_plugin)
    _say(changes, "nothing to remove")
    return 0


def _entry(values: dict[str, Any]) -> dict[str, Any]:
    """Return the plugin's entry; it is read as the plugin will read it, so that a mistake shows now."""
    entry = {"capabilities": {conf.ANNOTATIONS_CAPABILITY: True}} | {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value
    }
    if "agent_pod" in entry:
        namespace, _, prefix = str(entry["agent_pod"]).partition("/")
        entry["agent_pod"] = {"namespace": namespace, "name_prefix": prefix}
    try:
        entry["profile"] = conf.parse(entry).settings[PROFILE]  # the version, which stays what it is
    except CniError as error:
        raise click.UsageError(error.message) from None
    return entry


def _installed_plugin() -> str:
    """Return the plugin that came together with this program."""
    beside = [os.path.join(directory, PLUGIN) for directory in (_bundle(), _own_directory()) if directory]
    found = next((path for path in beside if os.access(path, os.X_OK)), None) or shutil.which(PLUGIN)
    if not found:
        raise click.UsageError(f"there is no {PLUGIN} beside this program or in PATH; name it with --plugin PATH")
    return found


def _own_directory() -> str:
    return os.path.dirname(os.path.abspath(sys.argv[0])) if "/" in sys.argv[0] else ""


def _bundle() -> str:
    """Return the bundle that this program runs from, if it does: what the kernel has started is its dynamic linker."""
    started = os.readlink("/proc/self/exe")
    directory, _, rest = started.rpartition(f"/{installer.BUNDLE_MARK}")
    return directory if directory and not rest else ""


def _require_usable(kubeconfig: str) -> None:
    """Raise unless the plugin can read the kubeconfig and what it names: else every pod of the mesh would fail."""
    from cni import kubernetes

    try:
        found = kubernetes.read_kubeconfig(kubeconfig)
    except CniError as error:
        raise CaptureError(error.message, f"{error.details} Nothing was installed.") from None
    for path in (found.authority_file, found.token_file, found.certificate_file, found.key_file):
        if path and not (os.path.isfile(path) and os.path.getsize(path)):
            problem = "is empty" if os.path.isfile(path) else "is missing, or no file"
            raise CaptureError(
                f"kubeconfig {kubeconfig}: {path}, which it names, {problem}",
                "Write it first: the plugin reads it for each pod. Nothing was installed.",
            )


def _say(changes: Sequence[Change], nothing: str) -> None:
    for change in changes:
        click.echo(str(change))
    if not changes:
        click.echo(nothing)

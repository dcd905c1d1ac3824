"""``capture node agent|status|uninstall``: the agent of a Kubernetes node."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from capture.cli.options import CommandGroup, command, format_option
from capture.cli.parameter_types import ParameterType, number_type, word_type
from capture.errors import EXIT_DRIFT, EXIT_FAILED, CaptureError
from capture.report.output import print_json
from capture.report.streams import Stream
from capture.report.terminal import print_lines
from capture.settings.parsers import port
from cni import agent_socket, conf
from cni.agent.kubectl import CAPTURE_COMMANDS
from cni.agent.options import RUNTIME_SOCKETS, SERVICE_ACCOUNT, Options
from cni.commands import ENTRY_OPTIONS, checked_entry, installed_plugin, print_changes
from cni.networks import PLUGIN
from cni.runtimes import BIN_DIR, CONF_DIR

AGENT_EXAMPLES = """
capture node agent --node "$NODE_NAME" --exclude-namespace kube-system     # as the chart's DaemonSet starts it
capture node agent --bin-dir /home/kubernetes/bin --metrics-address 127.0.0.1:15014
"""
NODE_STATUS_EXAMPLES = """
capture node status                         # on the node, or by kubectl exec in the agent's pod
capture node status --format json
capture node status --ready                 # for a readiness probe: exit code 0 or 1, no output
"""
NODE_UNINSTALL_EXAMPLES = """
capture node uninstall                      # on the node
capture node uninstall --all-nodes --daemon-set istio-capture/capture-agent     # in a pod, as the chart's hook does
"""
PODS_EXAMPLES = """
capture node pods
capture node pods --pod shop/web-0 --format json
"""
POD_EXAMPLES = """
capture node pod shop/web-0 verify
capture node pod shop/web-0 why tcp 203.0.113.9:80 --uid 1000
"""
REPAIRS = ("report", "apply", "evict")
AGENT_TIMEOUT = 3.0
POD_TYPE = ParameterType(str, "NAMESPACE/NAME, such as default/web-0", lambda text: all(text.partition("/")))
DAEMON_SET_TYPE = ParameterType(
    str, "NAMESPACE/NAME, such as istio-capture/capture-agent", lambda text: not text or all(text.partition("/"))
)
ADDRESS_TYPE = ParameterType(
    str, "HOST:PORT, such as 127.0.0.1:15014", lambda text: not text or (":" in text and port(text.rpartition(":")[2]))
)


def _may_be_sent_a_token(url: str) -> bool:
    """Return whether a text is an https URL, to which the plugin may send a token; an empty text is none given."""
    from cni.https import parse_url

    server = parse_url(url)
    return not url or (server is not None and server.scheme == "https")


API_SERVER_TYPE = ParameterType(str, "https://ADDRESS:PORT", _may_be_sent_a_token)
TAINT_KEY_TYPE = ParameterType(
    str,
    "the key of a taint, such as cni.istio.io/not-ready, without value and effect",
    lambda text: text and not {"=", ":", ",", " "} & {*text},
)
ABSOLUTE_PATH_TYPE = ParameterType(str, "an absolute path", os.path.isabs)
SOCKET_PATH_TYPE = ParameterType(str, "an absolute path", lambda text: not text or os.path.isabs(text))


def _set_terminal_size(_ctx: click.Context, _param: click.Parameter, terminal: str | None) -> None:
    """Print as for a terminal of this size, 120x40: `kubectl capture` has one, and this program a pipe to it."""
    if not terminal:
        return
    size, _, plain = terminal.partition(":")
    os.environ["COLUMNS"], _, os.environ["LINES"] = size.partition("x")
    if plain:
        os.environ["NO_COLOR"] = "1"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Stream):
            stream.is_shown_elsewhere = True


@click.group("node", cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--terminal", hidden=True, expose_value=False, is_eager=True, callback=_set_terminal_size)
def node_group() -> None:
    """Run the agent of a Kubernetes node, query it, or remove what it has installed."""


SOCKET_OPTION = click.Option(
    ["--socket"], type=ABSOLUTE_PATH_TYPE, metavar="PATH", default=agent_socket.AGENT_SOCKET, show_default=True,
    envvar="CAPTURE_AGENT_SOCKET", help="Where the agent listens for the plugin and for `capture node`.",
)  # fmt: skip
DAEMON_SET_OPTION = click.Option(
    ["--daemon-set"], type=DAEMON_SET_TYPE, metavar="NAMESPACE/NAME", default="", envvar="CAPTURE_DAEMON_SET",
    help="The DaemonSet of the agents: when it is deleted, each of them uninstalls the plugin.",
)  # fmt: skip
ACCOUNT_OPTION = click.Option(
    ["--service-account"], metavar="DIR", default=SERVICE_ACCOUNT, show_default=True,
    help="The token and CA that kubelet renews for this pod.",
)  # fmt: skip
PATH_OPTIONS = [
    click.Option(["--bin-dir"], metavar="DIR", default=BIN_DIR, show_default=True, envvar="CAPTURE_BIN_DIR",
                 help="Where the container runtime looks for plugins."),
    click.Option(["--conf-dir"], metavar="DIR", default=CONF_DIR, show_default=True, envvar="CAPTURE_CONF_DIR",
                 help="Where it looks for network configurations."),
    click.Option(["--credentials-dir"], metavar="DIR", default="", envvar="CAPTURE_CREDENTIALS_DIR",
                 help="Where the plugin's credentials are kept.  [default: istio-capture next to --conf-dir]"),
    SOCKET_OPTION,
]  # fmt: skip
AGENT_OPTIONS = [
    click.Option(["--node"], metavar="NAME", default="", envvar="NODE_NAME",
                 help="The node's name in Kubernetes; without it, the agent does not use the API server."),
    click.Option(["--plugin"], metavar="PATH", default="", envvar="CAPTURE_PLUGIN",
                 help=f"The executable {PLUGIN}, or a directory with it.  [default: the one installed with capture]"),
    click.Option(["--pod-source", "pod_sources"], type=word_type(*conf.POD_SOURCES), multiple=True,
                 help="Where facts about a pod come from; repeatable, in order."
                 "  [default: runtime, agent, kubernetes]"),
    click.Option(["--runtime-socket"], type=SOCKET_PATH_TYPE, metavar="PATH", default="",
                 envvar="CAPTURE_RUNTIME_SOCKET",
                 help="Where the container runtime listens for CRI.  [default: the first known one that is there]"),
    ACCOUNT_OPTION,
    click.Option(["--api-server"], type=API_SERVER_TYPE, metavar="URL", default="",
                 help="How the node reaches the API server.  [default: as the pod does]"),
    DAEMON_SET_OPTION,
    click.Option(["--audit/--no-audit"], default=True, show_default=True,
                 help="Look whether the pods of the node are captured; needs NET_ADMIN and SYS_ADMIN."),
    click.Option(["--repair-starting"], type=word_type(*REPAIRS[:2]), default="report", show_default=True,
                 help="What to do about a pod without its rules that is not ready yet."),
    click.Option(["--repair-running"], type=word_type(*REPAIRS), default="report", show_default=True,
                 help="What to do about a ready pod without its rules."),
    click.Option(["--repairs-per-minute"], type=number_type(0), default=10, show_default=True, metavar="N",
                 help="How many pods are repaired in a minute at most."),
    click.Option(["--remove-taint", "taints"], type=TAINT_KEY_TYPE, metavar="KEY", multiple=True,
                 help="Taint to remove from this node once pods are captured; repeatable."),
    click.Option(["--metrics-address"], type=ADDRESS_TYPE, metavar="HOST:PORT", default="",
                 envvar="CAPTURE_METRICS_ADDRESS",
                 help="Where Prometheus and probes are answered.  [default: nowhere]"),
]  # fmt: skip


@command(AGENT_EXAMPLES, *PATH_OPTIONS, *AGENT_OPTIONS, *ENTRY_OPTIONS, group=node_group)
def agent(**values: Any) -> int:
    """Install the plugin, keep it and its entry in place, and answer it.

    It runs until SIGTERM, which leaves plugin and entry where they are; only if --daemon-set is deleted, they go.
    """
    options = _agent_options(values)
    try:
        from cni.agent.process import Agent
    except ModuleNotFoundError as missing:
        raise CaptureError(
            f"the agent needs the Python package {missing.name}",
            "Install the extra: pip install 'istio-capture[agent]', or use the image that `make image-node` builds.",
        ) from None
    return Agent(options).run()


@command(
    NODE_STATUS_EXAMPLES,
    SOCKET_OPTION,
    format_option("text", "json"),
    click.Option(["--ready"], is_flag=True,
                 help="Print nothing; exit code 0 if pods that start now are captured, else 1."),
    click.Option(["--live"], is_flag=True, help="Print nothing; exit code 0 if the agent's loop runs, else 1."),
    group=node_group,
)  # fmt: skip
def status(socket: str, form: str, *, ready: bool, live: bool) -> int:
    """Show what this node's agent knows. Exit code 1 if pods that start now may run uncaptured."""
    try:
        answer = _request(socket, {"get": "status"})
    except CaptureError:
        if ready or live:
            return EXIT_FAILED
        raise
    if live:
        return 0 if answer.get("live") else EXIT_FAILED
    if form == "json" and not ready:
        print_json(answer)
    elif not ready:
        from cni.agent.status_text import status_lines

        print_lines(status_lines(answer))
    return 0 if answer.get("ready") else EXIT_FAILED


@command(
    PODS_EXAMPLES,
    SOCKET_OPTION,
    click.Option(["--pod"], type=POD_TYPE, metavar="NAMESPACE/NAME", help="This pod only."),
    format_option("text", "json"),
    group=node_group,
)
def pods(socket: str, pod: str | None, form: str) -> int:
    """List the pods of this node, each with its state: captured, left alone, or what is wrong with it.

    Exit code 4 if something is wrong with one of them.
    """
    from cni.agent.pod_state import GOOD_STATES, STATE_UNKNOWN
    from cni.agent.status_text import POD_HANG, pod_lines

    answer = _request(socket, {"get": "pods"} | _pod_question(pod or ""))
    listed = answer.get("pods") or []
    if form == "json":
        print_json(answer)
    elif not listed:
        print_lines([f"no pod is known; the audit is {answer.get('audit')}"])
    else:
        for line in pod_lines(listed):
            print_lines([line], POD_HANG)
    return EXIT_DRIFT if any(each["state"] not in (*GOOD_STATES, STATE_UNKNOWN) for each in listed) else 0


@command(
    POD_EXAMPLES,
    SOCKET_OPTION,
    click.Argument(["pod"], type=POD_TYPE, metavar="NAMESPACE/NAME"),
    click.Argument(["name"], type=word_type(*CAPTURE_COMMANDS), metavar="COMMAND"),
    click.Argument(["words"], nargs=-1, type=click.UNPROCESSED),
    group=node_group,
    name="pod",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def run_in_pod(socket: str, pod: str, name: str, words: tuple[str, ...]) -> int:
    """Run a command of `capture` in the network namespace of a pod of this node.

    COMMAND is why, trace, verify, dump, explain, watch or doctor.
    """
    from capture.cli.group import capture, run_click

    named_pods = _request(socket, {"get": "pods"} | _pod_question(pod)).get("pods") or []
    path = next((named_pod["namespace_path"] for named_pod in named_pods if named_pod["namespace_path"]), "")
    if not path:
        raise CaptureError(
            f"the agent of this node has no network namespace for {pod}", "`capture node pods` lists what it knows."
        )
    return run_click(capture, [name, "--netns", path, *words])


def _pod_question(pod: str) -> dict[str, str]:
    namespace, _, name = pod.partition("/")
    return {"namespace": namespace, "name": name}


def _request(socket: str, question: dict[str, str]) -> dict[str, Any]:
    try:
        return agent_socket.request(socket, question, AGENT_TIMEOUT)
    except agent_socket.AgentAwayError as away:
        raise CaptureError(
            f"no agent answers: {away}",
            "Start the agent (the chart's DaemonSet, or `capture node agent`); `capture cni status` needs none.",
        ) from None


@command(
    NODE_UNINSTALL_EXAMPLES,
    *PATH_OPTIONS,
    DAEMON_SET_OPTION,
    ACCOUNT_OPTION,
    click.Option(["--all-nodes"], is_flag=True,
                 help="With --daemon-set: delete it, so that each agent uninstalls; wait."),
    format_option("text", "json"),
    group=node_group,
)  # fmt: skip
def uninstall(service_account: str, daemon_set: str, form: str, *, all_nodes: bool, **values: Any) -> int:
    """Remove entry and credentials, and the plugin as soon as no pod needs it.

    Pods that run stay captured. The container runtime calls the plugin when a pod ends, so that it stays until the last
    pod that was started with it has ended; then it removes itself.
    """
    from cni.agent.uninstall import uninstall as take_away
    from cni.agent.uninstall import uninstall_from_all_nodes

    if all_nodes:
        if "/" not in daemon_set:
            raise click.UsageError("--all-nodes needs --daemon-set NAMESPACE/NAME")
        from cni.agent import api

        with api.connect(service_account) as client:
            uninstall_from_all_nodes(client, daemon_set)
        print_changes([f"{daemon_set}: deleted, and every agent has uninstalled"], form, "")
        return 0
    try:
        from cni.agent.runtime import find_runtime

        runtime = find_runtime("", RUNTIME_SOCKETS)
    except ModuleNotFoundError:  # without the extra the runtime cannot be read, and the plugin stays for pods that run
        runtime = None
    print_changes(take_away(_agent_options(values), runtime), form, "nothing to remove")
    return 0


def _agent_options(values: dict[str, Any]) -> Options:
    """Return the options; what belongs to the plugin's entry is in there."""
    of_entry = (*conf.CAPTURE_OPTIONS, "exclude_namespaces", "pod_sources", "log_file", "log_level")
    entry, read = checked_entry({key: values.get(key) for key in of_entry}, kubeconfig="/checked/later")
    of_agent = {key: value for key, value in values.items() if key not in of_entry}
    if "plugin" in of_agent:
        of_agent["plugin"] = of_agent["plugin"] or installed_plugin()
    paths = {key: os.path.abspath(of_agent[key]) for key in ("bin_dir", "conf_dir")}
    return Options(**({"node": "", "plugin": "", "entry": entry, "log_level": read.log_level} | of_agent | paths))

"""``kubectl capture``: what `capture` shows of a namespace, for a pod by its name, from anywhere.

    kubectl capture why web-0 -n shop tcp 10.1.2.3:80 --uid 1000
         └─ the pod's node ─> the agent there ─> capture node pod shop/web-0 why tcp 10.1.2.3:80 --uid 1000

It needs only kubectl and the right to exec into the agent's pods: no package of the agent.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import click

from capture.cli.group import reporter, requests_json, run_with_progress
from capture.cli.parameter_types import word_type
from capture.errors import EXIT_FAILED, CaptureError
from capture.model.json_text import JsonError, decode_json
from capture.report.output import GREEN, painted, print_json, run_to_exit_code
from capture.report.terminal import columns, print_lines, rows

CAPTURE_PROGRAM = "/usr/libexec/istio-capture/capture"
"""The program in the agent's image."""
LOG_LINE = re.compile(r"[EWIF]\d{4} [\d:.]+ ")
"""Lines of kubectl's libraries (klog), which kubectl repeats in a sentence."""
UNREACHED = re.compile("localhost:8080|^Unable to connect to the server|^The connection to the server")
"""kubectl's words for an API server that it cannot reach; without a kubeconfig it looks for one on this port."""
CAPTURE_COMMANDS = ("why", "trace", "verify", "dump", "explain", "watch", "doctor")
AGENTS = "app=capture-agent"
EPILOG = """\b
Examples:
  kubectl capture status
  kubectl capture verify web-0 -n shop
  kubectl capture why web-0 -n shop tcp 203.0.113.9:80 --uid 1000
  kubectl capture dump deploy/web -n shop
"""


def kubectl_words(stderr: str) -> str:
    """Return what kubectl itself says of an error, in one line."""
    return " ".join(line for line in stderr.splitlines() if not LOG_LINE.match(line)).strip()


@click.command(
    epilog=EPILOG,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "ignore_unknown_options": True,
        "allow_interspersed_args": True,
    },
)
@click.option("-n", "--namespace", default="", help="The pod's namespace.  [default: kubectl's]")
@click.option("--kubeconfig", default="", help="Passed on to kubectl.")
@click.option("--context", default="", help="Passed on to kubectl.")
@click.option("-l", "--selector", default="", help="The first pod with these labels, in place of a name.")
@click.argument("command", type=word_type(*CAPTURE_COMMANDS, "status", "report"), metavar="COMMAND")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def capture_pod(
    namespace: str, kubeconfig: str, context: str, selector: str, command: str, words: tuple[str, ...]
) -> int:
    """Show how a pod of the cluster is captured; COMMAND is one of `capture`, status (all nodes) or report.

    Of `capture` there are why, trace, verify, dump, explain, watch and doctor.
    WORDS are the pod, by name or owner (deploy/web), and the options of the command.
    """
    kubectl = Kubectl(namespace, kubeconfig, context)
    rest = list(words)
    if command == "status":
        return _status(kubectl, rest)
    if not rest and not selector:
        raise click.UsageError("name a pod: kubectl capture COMMAND POD")
    pod = kubectl.pod(rest.pop(0) if not selector else "", selector)
    agent = kubectl.agent_of(str(pod["spec"].get("nodeName", "")))
    name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    if command == "report":
        return _report(kubectl, agent, name, rest)
    return kubectl.run(agent, "node", "pod", name, command, *rest)


class Kubectl:
    """Calls kubectl for the cluster that the user means."""

    def __init__(self, namespace: str, kubeconfig: str, context: str) -> None:
        options = {"--kubeconfig": kubeconfig, "--context": context}
        self._base = ["kubectl", *[f"{flag}={value}" for flag, value in options.items() if value]]
        self._namespace = [f"--namespace={namespace}"] if namespace else []

    def pod(self, name: str, selector: str) -> dict[str, Any]:
        """Return the pod of a name, of an owner, or the first with the labels."""
        if selector:
            return self._first_object(self.get(*self._namespace, "pods", f"--selector={selector}"), selector)
        if "/" in name and not name.startswith(("pod/", "pods/", "po/")):
            selector = selector_of(self.get(*self._namespace, name))
            if not selector:
                raise CaptureError(f"{name} chooses no pods by labels", "Name one of its pods.")
            return self._first_object(self.get(*self._namespace, "pods", f"--selector={selector}"), name)
        return self.get(*self._namespace, "pod", name.rpartition("/")[2])

    def agents(self) -> list[dict[str, Any]]:
        agent_pods = self.get("--all-namespaces", "pods", f"--selector={AGENTS}")["items"]
        return [pod for pod in agent_pods if pod["status"].get("phase") == "Running"]

    def agent_of(self, node: str) -> dict[str, Any]:
        for agent in self.agents():
            if agent["spec"].get("nodeName") == node:
                return agent
        raise CaptureError(
            f"no agent runs on node {node or '(none: the pod is not scheduled yet)'}",
            f"List the agents: `kubectl get pods -A -l {AGENTS} -o wide`.",
        )

    def get(self, *arguments: str) -> dict[str, Any]:
        """Return objects. Raises CaptureError with kubectl's own words."""
        done = self._call([*self._base, "get", "-o", "json", *arguments], capture_output=True)
        try:
            plain: dict[str, Any] = decode_json(done.stdout)
        except JsonError:
            message = kubectl_words(done.stderr) or "its output is not JSON"
            remedy = "Name the cluster: --kubeconfig FILE or --context NAME." if UNREACHED.search(message) else ""
            raise CaptureError(f"kubectl: {message}", remedy) from None
        if not isinstance(plain, dict):
            raise CaptureError("kubectl: its output is not an object of Kubernetes")
        return plain

    def run(self, agent: dict[str, Any], *arguments: str) -> int:
        """Run `capture` in an agent's pod, to this terminal; return its exit code."""
        first, *rest = arguments
        return self._call(self._exec_command(agent, [first, *terminal_option(), *rest])).returncode

    def run_for_json(self, agent: dict[str, Any], *arguments: str) -> dict[str, Any]:
        """Run `capture` in an agent's pod and return the JSON that it prints, or an error of the same layout."""
        done = self._call(self._exec_command(agent, arguments), capture_output=True)
        try:
            plain: dict[str, Any] = decode_json(done.stdout)
        except JsonError:
            problem = {"message": done.stderr.strip(), "remedy": None, "exit_code": done.returncode}
            return {"error": problem, "node": agent["spec"].get("nodeName", "")}
        return plain

    def run_for_text(self, agent: dict[str, Any], *arguments: str) -> str:
        done = self._call(self._exec_command(agent, arguments), capture_output=True)
        return done.stdout + done.stderr

    def _exec_command(self, agent: dict[str, Any], arguments: Sequence[str]) -> list[str]:
        metadata = agent["metadata"]
        return [
            *self._base,
            "exec",
            f"--namespace={metadata['namespace']}",
            metadata["name"],
            "--",
            CAPTURE_PROGRAM,
            *arguments,
        ]

    @staticmethod
    def _first_object(listed: dict[str, Any], named: str) -> dict[str, Any]:
        for phase in ("Running", "Pending"):
            for pod in listed["items"]:
                if pod["status"].get("phase") == phase:
                    return dict(pod)
        raise CaptureError(f"no pod of {named} is running", "Name a pod that runs: `kubectl get pods` lists them.")

    @staticmethod
    def _call(command: list[str], *, capture_output: bool = False) -> subprocess.CompletedProcess[str]:
        if not capture_output:
            print(end="", flush=True)  # noqa: T201  # from here on the terminal is kubectl's
        try:
            return subprocess.run(command, capture_output=capture_output, text=True, errors="replace", check=False)
        except FileNotFoundError:
            raise CaptureError("kubectl is not in PATH", "Install it, or run `capture` on the node.") from None


def selector_of(owner: dict[str, Any]) -> str:
    """Return how an owner chooses its pods, in the notation of kubectl; "" if it does not, as a CronJob.

    A Service and a ReplicationController have labels alone, others a LabelSelector (meta/v1).
    """
    selector = (owner.get("spec") or {}).get("selector") or {}
    is_labels = not {"matchLabels", "matchExpressions"} & selector.keys()
    labels = selector if is_labels else selector.get("matchLabels") or {}
    terms = [f"{key}={value}" for key, value in labels.items()]
    forms = {"In": "{0} in ({1})", "NotIn": "{0} notin ({1})", "Exists": "{0}", "DoesNotExist": "!{0}"}
    expressions = [] if is_labels else selector.get("matchExpressions") or []
    terms += [forms[term["operator"]].format(term["key"], ",".join(term.get("values") or ())) for term in expressions]
    return ",".join(terms)


def _status(kubectl: Kubectl, options: list[str]) -> int:
    agents = kubectl.agents()
    if not agents:
        raise CaptureError("no agent runs in this cluster", "Install it as docs/agent.md describes.")
    if requests_json(options):
        statuses = [kubectl.run_for_json(agent, "node", "status", *options) for agent in agents]
        print_json({"agents": statuses})
        return 0 if all(each.get("ready") for each in statuses) else EXIT_FAILED
    codes = [kubectl.run(agent, "node", "status", *options) for agent in agents]
    return max(codes)


def terminal_option() -> list[str]:
    """Return the option that describes the terminal here to `capture` in the agent's pod, which prints into a pipe."""
    width = columns()
    plain = "" if painted("", GREEN, sys.stdout) else ":plain"
    return [f"--terminal={width}x{rows()}{plain}"] if width else []


def _report(kubectl: Kubectl, agent: dict[str, Any], pod: str, options: list[str]) -> int:
    """Print everything that a bug report needs; nothing of it is a secret: no token, no certificate, no environment."""
    steps = {
        "agent": ("node", "status"),
        "pod": ("node", "pods", "--pod", pod),
        "doctor": ("doctor",),
        **{command: ("node", "pod", pod, command) for command in ("verify", "why", "dump")},
    }
    parts = []
    for number, (title, arguments) in enumerate(steps.items(), 1):
        print(f"[{number}/{len(steps)}] {title}", file=sys.stderr, flush=True)  # noqa: T201  # it takes seconds
        command = f"capture {' '.join(arguments)}"
        parts.append({"title": title, "command": command, "output": kubectl.run_for_text(agent, *arguments)})
        if not requests_json(options):
            print_lines(f"--- {title}: {command}\n{parts[-1]['output']}".split("\n"))
    if requests_json(options):
        print_json({"parts": parts})
    return 0


def main() -> int:
    """Run ``kubectl capture`` and return its exit code."""
    words = sys.argv[1:]
    return run_to_exit_code(lambda: run_with_progress(capture_pod, words, "kubectl capture"), reporter(words))

"""The steps of docs/sidecar.md, done: namespaces play the pods, and kubectl's part is played here."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import yaml

from pytest_netns import PodPair
from support.captures.injected_pod import VENV, InjectedPod
from support.traffic.envoy_proxy import envoy_program
from support.traffic.proxies import start_app
from support.traffic.sidecar_lab import ENDPOINTS

PAGE = Path(__file__).parents[2] / "docs" / "sidecar.md"
SECTION = "## The seed, step by step"
FENCE = re.compile(r"```(\w+)(?: (\S+))?\n(.*?)```", re.DOTALL)
DEPLOYMENT = "deploy/nginx-deployment"

VARIABLE = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "TIME"),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "ID"),
    (r"curl/[\d.]+", "curl"),
    (r'"-" 0 \d+ \d+ \d+ "-"', "BYTES TIMES"),
    (r"10\.77\.0\.2[123]:", "ENDPOINT:"),
    (r":\d{5}\b", ":PORT"),
    (r"(?m)^ *\d+[KMG]? +\d+[KMG]? ", "COUNTERS "),
    (r"policy ACCEPT \d+ packets, \d+[KMG]? bytes", "policy"),
    (r" +", " "),
)
"""Texts that differ each time."""


class Page:
    """Does the steps of the page, and notes the results."""

    def __init__(self, pods: PodPair, directory: Path) -> None:
        self.directory = directory
        self.injected = InjectedPod(pods.pod)
        self.applied = False

    def run(self, command: str) -> str:
        """Return what a command prints."""
        words = shlex.split(command.replace("$", "\\$")) if command.startswith(("kubectl", "envoy")) else []
        if words[:2] == ["kubectl", "apply"]:
            return self._apply(words[3])
        if words[:2] == ["kubectl", "logs"]:
            return self.injected.log()[-1] + "\n"
        if words[:1] == ["envoy"]:
            context = {"runAsUser": 1337, "runAsGroup": 1337}
            self.injected.start(
                [envoy_program(), "-c", str(self.directory / words[2]), "--disable-hot-restart"], context
            )
            return ""
        if words[:2] == ["kubectl", "exec"]:
            return self._exec(command)
        return self._shell(command.replace("/run/netns/nginx", self.injected.pod.path))

    def _apply(self, name: str) -> str:
        (deployment,) = yaml.safe_load_all((self.directory / name).read_text())
        self.injected.apply(deployment["spec"]["template"])
        verb, self.applied = "configured" if self.applied else "created", True
        return f"deployment.apps/nginx-deployment {verb}\n"

    def _exec(self, command: str) -> str:
        inner, bar, rest = command.partition(" -- ")[2].partition(" | ")
        printed = self.injected.pod.run(["sh", "-c", inner], uid=1000).stdout
        return self._shell(rest, printed) if bar else printed

    def _shell(self, command: str, stdin: str = "") -> str:
        path = f"{VENV}:{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-c", command], input=stdin, cwd=self.directory, env={**os.environ, "PATH": path}, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout


def steps(text: str) -> list[tuple[str, str]]:
    """Return the commands of a console block, each with its output."""
    return [(part.partition("\n")[0], part.partition("\n")[2]) for part in re.split(r"(?m)^# ", text)[1:]]


def constant(text: str) -> str:
    for pattern, word in VARIABLE:
        text = re.sub(pattern, word, text)
    return text.strip()


def test_the_page_has_what_happens(pod_pair: PodPair, tmp_path: Path) -> None:
    """With ``CAPTURE_WRITE_DOCS`` set, the page is written anew."""
    for address in ENDPOINTS:
        pod_pair.peer.add_address(f"{address}/24")
    start_app(pod_pair.peer, 8080)
    tmp_path.chmod(0o755)
    before, heading, section = PAGE.read_text(encoding="utf-8").partition(SECTION)
    page = Page(pod_pair, tmp_path)
    shown, happened = [], []
    for kind, name, content in FENCE.findall(section):
        if kind == "yaml":
            (tmp_path / name).write_text(content, encoding="utf-8")
            continue
        block = ""
        for command, output in steps(content):
            printed = page.run(command)
            block += f"# {command}\n{printed}"
            shown.append((command, constant(output)))
            happened.append((command, constant(printed)))
        section = section.replace(f"```console\n{content}```", f"```console\n{block}```")
    if os.environ.get("CAPTURE_WRITE_DOCS"):
        PAGE.write_text(before + heading + section, encoding="utf-8")
    assert happened == shown

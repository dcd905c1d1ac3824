"""What README and docs show is done, in a captured pod of a node, and prints what they show."""

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import docs_pages
import pytest
import release

import capture
from capture.model.chain_names import SPELLING_BY_NAME
from pytest_netns import NamespaceFactory, Pod, require
from support.output.docs_examples import Command, Example, examples, is_printed, key_paths
from support.processes.our_programs import run_program
from support.processes.private_mounts import OWN_MOUNTS
from support.traffic.envoy_bootstrap import Sidecar
from support.traffic.envoy_proxy import envoy_program, start_envoy
from support.traffic.proxies import start_app
from support.traffic.sidecar_lab import SERVICES

ROOT = Path(capture.__file__).parents[1]
WRITTEN = docs_pages.END.strip()
"""Ends what a page has from the code: how a command is called, which test_documentation compares, and examples."""
PAGES = [
    page
    for page in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
    )
    if examples(page)
]
FOLLOWED_BY = {
    "docs/sidecar.md": ("tests/kernel/test_seed.py", "## The seed, step by step"),
    "docs/library.md": ("tests/kernel/test_library.py", "## Settings"),
}
"""Pages that a test of their own follows from step to step, and the heading where it begins."""
POD_PID = "4711"
"""The process id in the docs in place of one of the pod."""

# /etc and /opt are the node's own: what is written there goes with its mounts.
SET_UP = """
mount -t tmpfs tmpfs "$0"
mkdir "$0/etc" "$0/work"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$0/etc,workdir=$0/work" /etc
mount -t tmpfs tmpfs /opt
mount -t tmpfs tmpfs /var/log
mount -t tmpfs tmpfs /var/lib
rm -rf /etc/containerd # whose configuration names a directory of this machine
mkdir -p /etc/cni/net.d /opt/cni/bin /var/lib/rancher/k3s/data/cni /var/lib/rancher/k3s/agent/etc/cni/net.d
for directory in /etc/cni/net.d /var/lib/rancher/k3s/agent/etc/cni/net.d; do
    printf '%s' "$1" >$directory/10-pods.conflist
done
exec sleep 1000
"""
# What a page writes into the clone goes with the mount, too.
LAY_OUT = """
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work"
mount -t overlay overlay -o "lowerdir=$0,upperdir=$1/upper,workdir=$1/work" "$2"
"""
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: nginx-deployment, labels: {app: nginx}}
spec:
  replicas: 3
  selector: {matchLabels: {app: nginx}}
  template:
    metadata: {labels: {app: nginx}}
    spec:
      containers:
      - {name: nginx, image: "nginx:1.14.2", ports: [{containerPort: 80}]}
"""
HAPROXY = "containers: [{name: istio-proxy, image: haproxy, securityContext: {runAsUser: 1337}}]\n"
KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: node
contexts: [{name: node, context: {cluster: here, user: plugin}}]
clusters: [{name: here, cluster: {server: "https://127.0.0.1:6443"}}]
users: [{name: plugin, user: {token: secret}}]
"""
NETWORK = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "cni0", "ipam": {}}]}


class Reader:
    """A reader who types what a page shows: on the node, in the pod's network namespace, in a directory with files."""

    def __init__(self, pod: Pod, directory: Path, clone: Path) -> None:
        self.directory, self.changes, node = (directory / name for name in ("work", "changes", "node"))
        for made in (self.directory, self.changes, node):
            made.mkdir()
        subprocess.run(["sh", "-ec", LAY_OUT, clone, self.changes, self.directory], check=True)
        named = Path("/run/netns/pod")
        named.touch()
        subprocess.run(["mount", "--bind", pod.path, named], check=True)
        words = ["sh", "-ec", SET_UP, str(node), json.dumps(NETWORK)]
        self.process = pod.popen([*OWN_MOUNTS, *words])
        self.pod = pod
        self._wait()

    def _wait(self) -> None:
        give_up = time.monotonic() + 10
        while Path(f"/proc/{self.process.pid}/comm").read_text() != "sleep\n":
            assert self.process.returncode is None, self.process.output()
            assert time.monotonic() < give_up, "the node does not come up"
            time.sleep(0.01)

    def run(self, command: str, *, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command by a shell, with the pod's process id where the docs have their own."""
        text = f"cd {self.directory}\n{command.replace(POD_PID, str(self.process.pid))}"
        programs = Path(sys.executable).parent
        environ = {
            **os.environ,
            "PATH": f"{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "COLUMNS": "120",
            # What is installed comes from here, and needs no network.
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONPATH": str(next((programs.parent / "lib").glob("python3*/site-packages"))),
        }
        entered = ["nsenter", "--target", str(self.process.pid), "--mount"]
        # What names a process of the pod, or calls the plugin, is typed on the node, everything else in the pod.
        if POD_PID not in command and "CNI_COMMAND=" not in command:
            entered.append("--net")
        return subprocess.run(
            [*entered, "bash", "-o", "pipefail", "-c", text],
            env=environ,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def close(self) -> None:
        subprocess.run(["umount", "/run/netns/pod", self.directory, self.changes], check=True)
        Path("/run/netns/pod").unlink()


@functools.cache
def injected() -> str:
    """Return the deployment with a sidecar."""
    program = [str(Path(sys.executable).with_name("capture")), "inject", "-f", "-"]
    return subprocess.run(program, input=DEPLOYMENT, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the repository, which every page begins with."""
    directory = tmp_path_factory.mktemp("clone")
    listed = "git -c safe.directory='*' ls-files -z | xargs -0 cp --parents --target-directory"
    subprocess.run(["sh", "-c", f'{listed} "$0"', directory], cwd=ROOT, check=True)
    return directory


@pytest.fixture
def reader(netns: NamespaceFactory, tmp_path: Path, clone: Path) -> Iterator[Reader]:
    """Reads one page, in a pod that is captured as in [File 2] of the seed."""
    require(shutil.which("nsenter"), "the program nsenter is missing")
    pod = netns.pod()
    start_app(pod, 8080)
    start_envoy(pod, Sidecar())
    made = Reader(pod, tmp_path, clone)
    (made.directory / "deployment.yaml").write_text(DEPLOYMENT)
    (made.directory / "mesh.yaml").write_text("accessLogFile: /dev/null\n")
    for name in ("objects.yaml", "services.yaml"):
        (made.directory / name).write_text(SERVICES)
    (made.directory / "haproxy.yaml").write_text(HAPROXY)
    run_program(pod, "capture", "apply")
    dumped = run_program(pod, "capture", "dump", "--format", "json").stdout
    for name in ("before.json", "after.json"):
        (made.directory / name).write_text(dumped)
    (made.directory / "injected.yaml").write_text(injected())
    made.run(f"printf '%s' {shlex.quote(KUBECONFIG)} >/etc/cni/net.d/capture-kubeconfig")
    yield made
    made.close()


@pytest.mark.timeout(300)  # one page builds the bundle and installs the package
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_example_is_true(page: Path, reader: Reader, request: pytest.FixtureRequest) -> None:
    found = examples(page)
    if page.name == "README.md" or any(example.comment("files of") for example in found):
        bundle: Path = request.getfixturevalue("bundle")
        (reader.directory / "dist").mkdir()
        (reader.directory / "dist" / "bundle").symlink_to(bundle)
        if page.name == "README.md":
            release.pack(bundle, reader.directory / f"{release.BUNDLE_NAME}.tar.gz", 1_700_000_000)
    for example in found:
        if is_followed(page, example) or (example.language == "text" and is_written(page, example)):
            continue
        for command in example.before:
            done = reader.run(command)
            assert done.returncode == 0, f"{example}: {command}\n{done.stdout}{done.stderr}"
        check(example, reader)


def is_followed(page: Path, example: Example) -> bool:
    """Return whether a test of the page's own does this example."""
    test, heading = FOLLOWED_BY.get(str(page.relative_to(ROOT)), ("", ""))
    if not test:
        return False
    assert page.name in (ROOT / test).read_text()
    before, found, _ = page.read_text().partition(f"\n{heading}\n")
    assert found, f"{page.name} has no heading {heading}"
    return example.line > before.count("\n")


def is_written(page: Path, example: Example) -> bool:
    """Return whether an example comes from the code."""
    text = page.read_text(encoding="utf-8")
    return WRITTEN in text and example.line < text.partition(WRITTEN)[0].count("\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_an_example(page: Path) -> None:
    """What has a fence is found, so that the test below does it."""
    fences = [line for line in page.read_text(encoding="utf-8").splitlines() if line.lstrip().startswith("```")]
    assert len(examples(page)) * 2 == len(fences)


def check(example: Example, reader: Reader) -> None:
    """Do what an example shows, by its language."""
    if example.language == "console":
        for command in example.commands():
            check_command(example, command, reader)
    elif example.language == "json":
        check_json(example, reader)
    elif example.language == "yaml":
        check_yaml(example, reader)
    elif example.language == "ini":
        commands = re.findall(r"^Exec\w+=\S*/(.*)", example.text, re.MULTILINE)
        assert commands, f"{example}: a unit of systemd that runs nothing"
        for text in commands:
            check_command(example, Command(text, ""), reader)
    elif example.language == "python":
        assert ">>>" not in example.text, f"{example}: doctest does not read this page"
        done = reader.run(shlex.join([sys.executable, "-c", example.text]))
        assert done.returncode == 0, f"{example}: {done.stderr}"
    else:
        check_text(example, reader)


def check_text(example: Example, reader: Reader) -> None:
    """Compare what is neither typed nor read by a machine with what it is about."""
    if command := example.comment("printed by"):
        done = reader.run(command)
        assert done.returncode == 0, f"{example}: {done.stderr}"
        assert is_printed(example.text, done.stdout + done.stderr), f"{example}: {done.stdout}{done.stderr}"
    elif example.comment("files of"):
        names = re.findall(r"([\w./-]+)(?:,|  )", "\n".join(line[:37] for line in example.text.splitlines()))
        missing = [name for name in names if name != "..." and not (reader.directory / "dist/bundle" / name).exists()]
        assert (len(names) > 5, missing) == (True, []), f"{example}: {names}"
    else:
        assert example.comment("picture of"), f"{example}: a comment has to say where this is from"
        drawn = set(re.findall(r"\bISTIO[-_][A-Z-]+", example.text))
        assert drawn <= SPELLING_BY_NAME.keys(), f"{example}: {drawn - SPELLING_BY_NAME.keys()}"
        assert drawn or example.language == "mermaid", f"{example}: a picture without a chain"


NEED_A_CLUSTER = re.compile("kubectl (?!capture )|helm |podman push |crictl ")
"""What the tests of the agent and of injection do with an API server: here, what a page names has to exist."""
CNI_CALL = (
    "CNI_CONTAINERID=cafe CNI_NETNS=/run/netns/pod CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin CNI_ARGS=K8S_POD_NAME=web-0"
)
"""How a container runtime calls a plugin, as podman does it for a pod."""
APPLY = "| kubectl apply -f -"
READ_OBJECTS = "| python3 -c 'import sys, yaml; assert all(yaml.safe_load_all(sys.stdin))'"


def check_command(example: Example, command: Command, reader: Reader) -> None:
    if NEED_A_CLUSTER.match(command.text):
        check_names(example, command)
        return
    done = reader.run(as_typed_here(command.text))
    if example.comment("elsewhere"):
        assert done.returncode == 4, f"{example}: {done.stderr}"  # what it shows is not here
        return
    shown = f"{example}: {command.text}\n{done.stdout}{done.stderr}"
    assert done.returncode in expected_codes(command), f"{shown}exit code {done.returncode}"
    if command.output:
        assert is_printed(command.output, done.stdout), shown


def check_names(example: Example, command: Command) -> None:
    """Look for our files that kubectl, helm or podman are given."""
    takes_files = command.text.startswith("helm ") or " -f " in command.text
    named = [word for word in shlex.split(command.text, comments=True) if word.startswith("deploy/") and takes_files]
    assert [word for word in named if not (ROOT / word).exists()] == [], f"{example}: {command.text}"


def as_typed_here(text: str) -> str:
    """Return a command as it can be run here: what others test is only looked at, and nothing runs for ever."""
    text = text.replace(APPLY, READ_OBJECTS)
    if text.startswith("make "):  # what they do has tests of its own
        return text.replace("make ", "make --dry-run ", 1)
    if text.startswith("envoy "):  # the pod has one, and a second would serve for ever: is the configuration right?
        return text.replace("envoy ", f"{envoy_program()} --mode validate ", 1)
    if command := re.match("kubectl capture|capture (node|host) [a-z]+", text):  # is there one, with such options?
        return f"{command[0].replace('kubectl ', 'kubectl-')} --help{text[command.end() :]}"
    if text.startswith("capture watch ") and "--once" not in text:
        return f"timeout --signal INT --preserve-status 1 env --default-signal=INT {text}"
    return text


def expected_codes(command: Command) -> tuple[int, ...]:
    """Return the exit codes that a page means: 4 where it shows drift or a cause; 1 may be if it looks for a thing."""
    if command.output.startswith(("drift:", "not captured:")):
        return (4,)
    if command.text.startswith(("capture diff ", "capture verify ", "capture cni status")) and not command.output:
        return (0, 4)
    if command.text.startswith("capture watch "):
        return (0, 130)  # Ctrl-C ends it
    return (0, 1) if "| grep" in command.text else (0,)


def check_json(example: Example, reader: Reader) -> None:
    shown = json.loads(example.text)
    if example.comment("read by") == "capture-cni":
        entry = shown["plugins"][-1] if "plugins" in shown else shown
        configuration = json.dumps({"cniVersion": "1.0.0", "name": "pods", **entry})
        done = reader.run(f"CNI_COMMAND=ADD {CNI_CALL} capture-cni <<<{shlex.quote(configuration)}")
    else:
        done = reader.run(example.comment("shape of"))
        assert key_paths(shown) == key_paths(json.loads(done.stdout)), f"{example}: {done.stdout}"
    assert done.returncode == 0, f"{example}: {done.stdout}{done.stderr}"


def check_yaml(example: Example, reader: Reader) -> None:
    """Read it; and run it with the arguments of the init container."""
    yaml = pytest.importorskip("yaml")
    for document in yaml.safe_load_all(example.text):
        for container in (document.get("initContainers") or []) if isinstance(document, dict) else []:
            done = reader.run(shlex.join(["istio-init", *container["args"]]))
            assert done.returncode == 0, f"{example}: {done.stderr}"

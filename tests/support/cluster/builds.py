"""The programs of a Kubernetes node: taken from PATH, or built once from Go modules into ``build/cluster``.

    python tests/support/cluster/builds.py          builds what is missing: ten minutes on two cores, 6 GB below GOPATH
    python tests/support/cluster/builds.py helm     builds this, though it may be there: kubernetes, helm, or runtime

``CAPTURE_CLUSTER_BIN`` names directories (separated by colons) that are looked into first. Go's module proxy is the
only server that is queried.
"""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / "build" / "cluster"

KUBERNETES = "1.34.4"
"""The last line that takes containerd 1.6 and cgroup v1 as they are."""
GO = (1, 24)
"""The least version that builds all of them."""
CONTAINERD, RUNC, PLUGINS, HELM = "2.2.9", "1.5.1", "1.9.1", "3.19.0"
PROGRAMS = {
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver/app.NewAPIServerCommand()",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager/app.NewControllerManagerCommand()",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler/app.NewSchedulerCommand()",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy/app.NewProxyCommand()",
    "kubelet": "k8s.io/kubernetes/cmd/kubelet/app.NewKubeletCommand(context.Background())",
    "kubectl": "k8s.io/kubectl/pkg/cmd.NewDefaultKubectlCommand()",
}
REFERENCE_PLUGINS = ("main/bridge", "ipam/host-local", "meta/portmap", "main/loopback")


def directories() -> list[Path]:
    """Return where programs are looked for, in order."""
    named = [Path(name) for name in os.environ.get("CAPTURE_CLUSTER_BIN", "").split(":") if name]
    return [*named, CACHE, *map(Path, os.environ["PATH"].split(":"))]


def find(name: str) -> Path | None:
    """Return a program of that name; None if there is none."""
    return next((path for place in directories() if os.access(path := place / name, os.X_OK) and path.is_file()), None)


def second_runtime() -> Path | None:
    """Return the directory with containerd 2, its shim, a runc of its own, and ``cni``; None if it is not there."""
    for place in [*map(Path, filter(None, os.environ.get("CAPTURE_CLUSTER_BIN", "").split(":"))), CACHE / "runtime2"]:
        if (place / "containerd").is_file() and (place / "cni").is_dir():
            return place
    return None


def build_missing() -> None:
    """Build what is not there."""
    missing = {
        "kubernetes": any(find(name) is None for name in PROGRAMS),
        "helm": find("helm") is None,
        "runtime": second_runtime() is None,
    }
    for part, is_missing in missing.items():
        if is_missing:
            build(part)


def build(part: str) -> None:
    """Build a part, which is one of three."""
    CACHE.mkdir(parents=True, exist_ok=True)
    match part:
        case "kubernetes":
            build_kubernetes()
        case "helm":
            install("helm.sh/helm/v3/cmd/helm", HELM, CACHE)
        case "runtime":
            build_runtime(CACHE / "runtime2")
        case _:
            sys.exit(f"error: {part}: expected kubernetes, helm or runtime")


def build_kubernetes() -> None:
    """Build ONE program that is any of ``PROGRAMS`` by the name it is called by: one link in place of six."""
    source = CACHE / "kubernetes"
    source.mkdir(exist_ok=True)
    staging = f"0.{KUBERNETES.partition('.')[2]}"
    go(source, "mod", "download", f"k8s.io/kubernetes@v{KUBERNETES}")
    modules = subprocess.run([_go(), "env", "GOMODCACHE"], capture_output=True, text=True, check=True).stdout.strip()
    original = Path(modules, f"k8s.io/kubernetes@v{KUBERNETES}", "go.mod").read_text()
    # Kubernetes' own go.mod replaces these by folders that the module's archive does not have.
    staged = re.findall(r"^\s*(k8s\.io/\S+) => \./staging/", original, re.MULTILINE)
    (source / "go.mod").write_text(
        "module capture/cluster\n\n"
        + "\n".join(re.findall(r"^(?:go|godebug) .*$", original, re.MULTILINE))
        + f"\n\nrequire k8s.io/kubernetes v{KUBERNETES}\n\nreplace (\n"
        + "".join(f"\t{module} => {module} v{staging}\n" for module in staged)
        + ")\n"
    )
    (source / "main.go").write_text(_main())
    version = "k8s.io/component-base/version"
    minor = KUBERNETES.split(".")[1]
    flags = f"-s -w -X {version}.gitVersion=v{KUBERNETES} -X {version}.gitMajor=1 -X {version}.gitMinor={minor}"
    go(source, "build", "-ldflags", flags, "-o", str(CACHE / "kubernetes.bin"), ".")
    for name in PROGRAMS:
        (CACHE / name).unlink(missing_ok=True)
        (CACHE / name).symlink_to("kubernetes.bin")


def _main() -> str:
    imports, cases = [], []
    for number, (name, call) in enumerate(PROGRAMS.items()):
        package, _, function = call.rpartition(".New")
        imports.append(f'\tp{number} "{package}"')
        cases.append(f'\t\t"{name}": func() *cobra.Command {{ return p{number}.New{function} }},')
    text = (
        "package main\n\nimport (\n\t%s\n\n%s\n)\n\n"
        "func main() {\n\tcommands := map[string]func() *cobra.Command{\n%s\n\t}\n"
        "\tcommand, known := commands[filepath.Base(os.Args[0])]\n\tif !known {\n\t\tos.Exit(2)\n\t}\n"
        "\tos.Exit(cli.Run(command()))\n}\n"
    )
    others = [
        '"context"', '"os"', '"path/filepath"', '"github.com/spf13/cobra"', '"k8s.io/component-base/cli"',
        '_ "k8s.io/component-base/logs/json/register"', '_ "k8s.io/component-base/metrics/prometheus/clientgo"',
        '_ "k8s.io/component-base/metrics/prometheus/version"',
    ]  # fmt: skip
    return text % ("\n\t".join(others), "\n".join(imports), "\n".join(cases))


def build_runtime(target: Path) -> None:
    """Build containerd 2, a runc that can map ids, and plugins for CNI 1.1."""
    main = "github.com/containerd/containerd/v2/cmd"
    for program in ("containerd", "containerd-shim-runc-v2"):
        install(f"{main}/{program}", CONTAINERD, target, tags="no_btrfs")
    install(
        "github.com/opencontainers/runc", RUNC, target, tags="seccomp", flags=f"-X main.version={RUNC}", with_c=True
    )
    for plugin in REFERENCE_PLUGINS:
        install(f"github.com/containernetworking/plugins/plugins/{plugin}", PLUGINS, target / "cni")


def install(package: str, version: str, target: Path, *, tags: str = "", flags: str = "", with_c: bool = False) -> None:
    """Build one program of a module in a module of our own, since some modules replace others in their own."""
    name = package.rpartition("/")[2]
    source = CACHE / "sources" / name
    source.mkdir(parents=True, exist_ok=True)
    (source / "go.mod").write_text("module capture/cluster\n")
    go(source, "get", f"{package}@v{version}")
    options = ["-tags", tags, "-ldflags", f"-s -w {flags}", "-o", str(target / name)]
    go(source, "build", *options, package, with_c=with_c)


def go(directory: Path, *arguments: str, with_c: bool = False) -> None:
    """Run the Go command, at low priority."""
    environment = os.environ | {"GOFLAGS": "-buildvcs=false -mod=mod", "CGO_ENABLED": "1" if with_c else "0"}
    print("go", *arguments[:3], flush=True)  # noqa: T201  # minutes pass
    subprocess.run(["nice", _go(), *arguments], cwd=directory, env=environment, check=True)


@functools.cache
def _go() -> str:
    """Return the first Go that is new enough: distributions have an old one in PATH."""
    places = [*map(Path, os.environ["PATH"].split(":")), Path("/usr/local/go/bin")]
    found: list[str] = []
    for program in (path for place in places if os.access(path := place / "go", os.X_OK)):
        text = subprocess.run([program, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout.strip()
        numbers = re.findall(r"\d+", text)[:2]
        if tuple(map(int, numbers)) >= GO:
            return str(program)
        found.append(f"{program} is {text or 'unknown'}")
    required = ".".join(map(str, GO))
    sys.exit(f"error: Go {required} or later is missing ({', '.join(found) or 'there is none'}): https://go.dev/dl")


if __name__ == "__main__":
    for named in sys.argv[1:]:
        build(named)
    if not sys.argv[1:]:
        build_missing()

"""docs/tested.md: what was run on a real Kubernetes node, and what was only read."""

from __future__ import annotations

import datetime as dt
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence

import cluster_builds as builds

KEPT = builds.CACHE / "results.json"
RESULTS: dict[tuple[str, str], str] = {}
MARKS = {"passed": "ok", "failed": "**FAILED**", "skipped": "n/a"}

INTRODUCTION = (
    "`make test-cluster` wrote this on {date}, at commit {revision}: Kubernetes {kubernetes}, containerd {first} and "
    "{second}, Linux {linux}. Traffic goes through real Envoys; what an application saw tells which way a request "
    "went. "
    "When a part of the rows is run again, the others keep the result of the run before."
)
READ_ONLY = """\
## Only read, not run

| what | from where |
|---|---|
| CRI-O | ocicni's choice of a list; its `Status` has no `cniconfig`, so that readiness looks at the file alone |
| Multus | the list of the delegate; a NetworkAttachmentDefinition |
| SELinux enforcing | `seLinuxType: spc_t` of the chart |
| arm64 | nothing in the agent depends on the machine |
| GKE, EKS, AKS, OpenShift, k3s, MicroK8s, Talos | directories and sockets of the chart's platforms |
| cgroup v2, kubelet 1.35 and later | this machine has the controllers of version 1 |
| several nodes | |
"""


def note(nodeid: str, outcome: str) -> None:
    """Remember what became of a test, by its name and the kind of node."""
    name, _, kind = nodeid.partition("[")
    RESULTS[name, kind.rstrip("]")] = outcome


def keep() -> None:
    """Add this run's results to those of earlier ones, so that a part of the rows can be run again."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept |= {" ".join(key): outcome for key, outcome in RESULTS.items()}
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    KEPT.write_text(json.dumps(kept, indent=1))
    RESULTS.update({(key.split()[0], key.split()[1]): outcome for key, outcome in kept.items()})


def document(rows: Mapping[str, str], kinds: Sequence[str], revision: str) -> str:
    """Return the page: a table with a row for each test and a column for each kind of node."""
    ids = {kind: kind.replace(" ", "-").replace(",", "") for kind in kinds}
    lines = [
        "# Tested on a real Kubernetes node",
        "",
        INTRODUCTION.format(
            date=f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
            revision=revision,
            kubernetes=builds.KUBERNETES,
            first=_version("containerd"),
            second=builds.CONTAINERD,
            linux=platform.release(),
        ),
        "",
        f"| | {' | '.join(kinds)} |",
        f"|---|{'---|' * len(kinds)}",
    ]
    for name, sentence in rows.items():
        marks = [MARKS.get(RESULTS.get((name, ids[kind]), ""), "") for kind in kinds]
        lines.append(f"| {sentence} | {' | '.join(marks)} |")
    return "\n".join([*lines, "", "n/a: does not apply there.", "", READ_ONLY])


def _version(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return next((word for word in done.stdout.split() if word[:1].isdigit()), "?").partition("~")[0]

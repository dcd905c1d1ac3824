"""Nodes of several kinds with the agent installed, and docs/tested.md, which says what was run on them.

Not part of `make test`: `make test-cluster` builds what is needed, or takes it from PATH.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_netns import require
from support.cluster import builds, images
from support.cluster import report as tested
from support.cluster.installed import ROOT, Cluster

IMAGE = "docker.io/library/capture-node:0.1.0"
KINDS = {
    "dual-stack, containerd 1": (("ipv4", "ipv6"), False, "chart"),
    "IPv4, containerd 1": (("ipv4",), False, "manifest"),
    "IPv6, containerd 1": (("ipv6",), False, "chart"),
    "dual-stack, containerd 2, CNI 1.1": (("ipv4", "ipv6"), True, "chart"),
}
"""Families, whether the runtime is containerd 2, and what the agent is installed with."""


@pytest.fixture(scope="session", params=KINDS, ids=lambda kind: kind.replace(" ", "-").replace(",", ""))
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A node of each kind in turn, with the agent installed."""
    families, newer, method = KINDS[request.param]
    _require_programs()
    runtime = builds.second_runtime() if newer else None
    require(not newer or runtime, "containerd 2 is missing: `make test-cluster` builds it")
    image = _agent_image(tmp_path_factory)
    node = Cluster(tmp_path_factory.mktemp("node"), families, runtime, "1.1.0" if newer else "1.0.0")
    node.kind, node.method = request.param, method
    try:
        node.start()
        node.load_image(image)
        node.install() if method == "chart" else node.install_manifest()
        yield node
    finally:
        node.stop()
        shutil.rmtree(node.disk, ignore_errors=True)


def _require_programs() -> None:
    require(os.geteuid() == 0, "a Kubernetes node needs root")
    for name in (*builds.PROGRAMS, "helm", "etcd", "catatonit", "ctr", "curl"):
        require(builds.find(name), f"the program {name} is missing: `make test-cluster` installs or builds it")


def _agent_image(factory: pytest.TempPathFactory) -> Path:
    archive = factory.getbasetemp() / "agent.tar"
    if not archive.exists():
        root = ROOT / "dist" / "node"
        require(root.exists(), "dist/node is missing: `make test-cluster` builds it")
        images.write_agent(archive, IMAGE, root)
    return archive


# --- the report ----------------------------------------------------------------------------------------------------


ROWS: dict[str, str] = {}
"""What each test states, also of those that are not run this time."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Note all rows, before some are deselected; the crowd comes first, while no node of another kind runs."""
    ROWS.update({item.nodeid.partition("[")[0]: _sentence(item) for item in items if "/cluster/" in item.nodeid})
    yield
    items.sort(key=lambda item: tested.CROWD not in item.nodeid)


BEFORE = tested.PAGE.read_text() if tested.PAGE.exists() else ""
"""The page as it was before this run."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what happened to a test, and write the page anew: a run may be cut off."""
    if "/cluster/" not in report.nodeid:
        return
    if report.when == "call" or (report.when == "setup" and report.failed):
        tested.note(report.nodeid, report.outcome, str(dict(report.user_properties).get("measured", "")))
        if os.environ.get("CAPTURE_WRITE_TESTED"):
            tested.write(ROWS, list(KINDS), BEFORE)


def _sentence(item: pytest.Item) -> str:
    function = getattr(item, "function", None)
    text = (function.__doc__ or "").strip().partition("\n")[0] if function else ""
    return text.rstrip(".") or item.name.partition("[")[0].removeprefix("test_").replace("_", " ")

"""Writes deploy/istio-capture.yaml: what the chart renders with its defaults, without what only helm can use.

``manifest.py --check`` compares instead. Helm comes from PATH, CAPTURE_CLUSTER_BIN or the cache of `make test-cluster`.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHART, MANIFEST = ROOT / "deploy" / "chart", ROOT / "deploy" / "istio-capture.yaml"
VALUES = ("namespace.create=true", "uninstall.hook=false")
HEADER = """\
# The node agent with the chart's defaults. `make manifest` made this from deploy/chart; do not edit it.
#
#   kubectl apply -f istio-capture.yaml
#
# To uninstall, delete the DaemonSet first, so that each agent takes its plugin away while it has its rights:
#
#   kubectl -n istio-capture delete daemonset capture-agent --cascade=foreground
#   kubectl delete -f istio-capture.yaml --ignore-not-found
#
# chart: {digest}
"""


def main() -> int:
    """Write the manifest, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--helm", default="helm", help="the program")
    parser.add_argument("--check", action="store_true", help="compare; exit code 1 if the manifest is not the chart's")
    options = parser.parse_args()
    text = HEADER.format(digest=digest()) + rendered(options.helm)
    if not options.check:
        MANIFEST.write_text(text)
        print(f"{MANIFEST}: written")
        return 0
    return int(MANIFEST.read_text() != text)


def digest() -> str:
    """Return what distinguishes one version of the chart from another."""
    found = hashlib.sha256()
    for path in sorted(path for path in CHART.rglob("*") if path.is_file()):
        found.update(f"{path.relative_to(CHART)}\0".encode() + path.read_bytes())
    return f"sha256:{found.hexdigest()}"


def rendered(helm: str) -> str:
    """Return what helm makes of the chart, as one stream of objects."""
    settings = [word for value in VALUES for word in ("--set", value)]
    command = [
        helm,
        "template",
        "istio-capture",
        str(CHART),
        "--namespace",
        "istio-capture",
        "--kube-version",
        "1.34.0",
    ]
    done = subprocess.run([*command, *settings], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: helm: {done.stderr}")
    return done.stdout.replace("managed-by: Helm", "managed-by: kubectl")


if __name__ == "__main__":
    sys.exit(main())

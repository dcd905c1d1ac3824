"""Container images made by hand, since there is no registry: OCI archives for ``ctr images import``."""

import io
import tarfile
from pathlib import Path

from support.runtimes.oci_image import write_archive

AGENT = "/usr/libexec/istio-capture-agent"


def write_agent(path: Path, name: str, root: Path) -> None:
    """Write the image of the node agent as ``cni/Dockerfile`` does, from ``dist/node``."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.add(root, arcname=".", filter=_as_root)
    config: dict[str, object] = {
        "Entrypoint": [f"{AGENT}/python", "-sP", "-m", "capture", "node", "agent"],
        "Env": [
            f"PATH={AGENT}:/usr/libexec/istio-capture:/usr/sbin:/usr/bin:/sbin:/bin",
            f"PYTHONHOME={AGENT}",
            f"PYTHONPATH={AGENT}/lib/packages",
            "CAPTURE_PLUGIN=/usr/libexec/istio-capture",
        ],
    }
    write_archive(path, name, layer.getvalue(), config)


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    return entry

"""Makes a container image without a registry: an OCI image layout in a tar file, with one layer.

The image holds next to nothing: a program that waits and reaps, an /etc/passwd, and links such as /bin -> usr/bin,
so that containers which mount the machine's /usr have its programs. Both ``ctr images import`` and ``podman load``
take it. Source: OCI image specification 1.1, image-layout.md, manifest.md, config.md.
"""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"

USERS = """\
root:x:0:0::/:/bin/sh
app:x:1000:1000::/tmp:/bin/sh
istio-proxy:x:1337:1337::/tmp:/bin/sh
"""
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
DIRECTORIES = {"usr": 0o755, "etc": 0o755, "proc": 0o555, "sys": 0o555, "dev": 0o755, "run": 0o755, "tmp": 0o1777}


def write_image(path: Path, name: str, waiting_program: Path) -> None:
    """Write an image of this name whose containers wait, by a static program with the option ``-P`` (catatonit)."""
    waiting: dict[str, object] = {
        "Entrypoint": ["/pause", "-P"],
        "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    }
    write_archive(path, name, _layer(waiting_program), waiting)


def write_archive(path: Path, name: str, layer: bytes, of_container: dict[str, object]) -> None:
    """Write an image of one layer, a tar archive, whose containers are started by ``of_container``."""
    platform = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
        "os": "linux",
    }
    config = _json(platform | {"config": of_container, "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]}})
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, config),
            "layers": [_descriptor(LAYER, layer)],
        }
    )
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    entry = _descriptor(MANIFEST, manifest) | {"platform": platform, "annotations": names}
    index = _json({"schemaVersion": 2, "manifests": [entry]})
    with tarfile.open(path, "w") as image:
        _add(image, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(image, "index.json", index)
        for blob in (config, manifest, layer):
            _add(image, f"blobs/sha256/{_digest(blob).partition(':')[2]}", blob)


def _layer(waiting_program: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for directory, mode in DIRECTORIES.items():
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            layer.addfile(entry)
        for link, target in LINKS.items():
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            layer.addfile(entry)
        _add(layer, "etc/passwd", USERS.encode())
        _add(layer, "pause", waiting_program.read_bytes(), mode=0o755)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def _descriptor(kind: str, content: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value).encode()

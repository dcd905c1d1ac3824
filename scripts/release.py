"""Everything that is published, in dist/release: wheel, sdist, bundle, SBOM and checksums. Started by `make release`.

    istio_capture-VERSION-py3-none-any.whl, istio_capture-VERSION.tar.gz
    istio-capture-bundle-VERSION-linux-MACHINE.tar.gz
    istio-capture-VERSION.cdx.json                         CycloneDX 1.6: what the bundle is made of
    SHA256SUMS

The same sources on the same system give the same bytes: every time is the one in SOURCE_DATE_EPOCH, by
default that of the last commit.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from capture import __version__

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "dist" / "release"
BUNDLE_NAME = f"istio-capture-bundle-{__version__}-linux-{platform.machine()}"

Component = dict[str, Any]


def main() -> int:
    """Build everything and list it with its checksums."""
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    build_release(output)
    print((output / "SHA256SUMS").read_text(), end="")
    if warning := unset_repository((ROOT / "pyproject.toml").read_text(encoding="utf-8")):
        print(warning, file=sys.stderr)
    return 0


def build_release(output: Path) -> None:
    """Write every file of the release into a directory."""
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or _last_commit())
    # The order of a set may get into compiled code, and depends on a seed.
    environ = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0"}
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(output)], cwd=ROOT, env=environ, check=True)
    bundle = output / "bundle"
    subprocess.run([sys.executable, ROOT / "scripts/bundle/build.py", "--output", bundle], env=environ, check=True)
    sbom = output / f"istio-capture-{__version__}.cdx.json"
    sbom.write_text(json.dumps(bill_of_materials(bundle), indent=1) + "\n", encoding="utf-8")
    pack(bundle, output / f"{BUNDLE_NAME}.tar.gz", epoch)
    shutil.rmtree(bundle)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(output.iterdir())]
    (output / "SHA256SUMS").write_text("".join(sums), encoding="ascii")


def unset_repository(pyproject: str) -> str:
    """Return the problem if the links of the package lead nowhere; "" if they name a repository."""
    repository = str(tomllib.loads(pyproject)["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"])
    if not (urlsplit(repository).hostname or "").endswith(".example"):
        return ""
    return (
        f"warning: {repository} is no address, and the links of the package begin with it:"
        " before you publish, set `repository` in pyproject.toml"
    )


def _last_commit() -> str:
    command = ["git", "-c", "safe.directory=*", "log", "-1", "--format=%ct"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return shown.stdout.strip() or "1577836800"  # an unpacked sdist: 2020, as hatchling has it


def pack(directory: Path, archive: Path, epoch: int) -> None:
    """Write a directory as a tar archive without a trace of who packed it, and when."""

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mtime = epoch
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        return entry

    with (
        archive.open("wb") as file,
        gzip.GzipFile("", "wb", 6, mtime=epoch, fileobj=file) as packed,  # 9 takes four times as long, for 1 %
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path in [directory, *sorted(directory.rglob("*"))]:
            name = str(Path(BUNDLE_NAME, path.relative_to(directory)))
            tar.add(path, name, recursive=False, filter=anonymous)


# --- what the bundle is made of ----------------------------------------------------------------------


def bill_of_materials(bundle: Path) -> dict[str, Any]:
    """Return the SBOM of a bundle: our package, what is frozen or linked into it, and the libraries that it carries."""
    own = {"type": "application", "name": "istio-capture", "version": __version__, "licenses": _licence("Apache-2.0")}
    components = sorted([*_frozen(), *_carried(bundle)], key=lambda component: component["name"])
    text = json.dumps(components)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, text)}",
        "version": 1,
        "metadata": {"component": own},
        "components": components,
    }


def _frozen() -> Iterator[Component]:
    for name, licence in (("click", "BSD-3-Clause"), ("PyYAML", "MIT")):
        version = importlib.metadata.version(name)
        yield {
            "type": "library",
            "name": name,
            "version": version,
            "licenses": _licence(licence),
            "purl": f"pkg:pypi/{name.lower()}@{version}",
        }
    version = platform.python_version()
    yield {"type": "library", "name": "cpython", "version": version, "licenses": _licence("PSF-2.0")}
    yield from _package_components(["zlib1g-dev", "libexpat1-dev"])  # linked into the interpreter


def _carried(bundle: Path) -> Iterator[Component]:
    """Yield the packages of this system from which shared libraries were copied."""
    names = {path.name for path in (bundle / "lib").iterdir() if ".so" in path.name}
    owners = set()
    for name in sorted(names):
        pattern = "*/ld-linux*" if name == "ld.so" else f"*/{name}"
        found = subprocess.run(["dpkg-query", "--search", pattern], capture_output=True, text=True, check=False)
        owners |= {line.partition(":")[0] for line in found.stdout.splitlines() if not line.startswith("diversion")}
    yield from _package_components(sorted(owners))


def _package_components(names: list[str]) -> Iterator[Component]:
    form = "${source:Package} ${source:Version} ${Architecture}\n"
    listed = subprocess.run(["dpkg-query", "-W", "-f", form, *names], capture_output=True, text=True, check=False)
    for source, version, architecture in sorted({tuple(line.split()) for line in listed.stdout.splitlines()}):
        purl = f"pkg:deb/debian/{source}@{version}?arch={architecture}"
        yield {"type": "library", "name": source, "version": version, "purl": purl}


def _licence(name: str) -> list[dict[str, dict[str, str]]]:
    return [{"license": {"id": name}}]


if __name__ == "__main__":
    sys.exit(main())

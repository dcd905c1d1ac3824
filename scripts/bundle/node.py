"""Builds ``dist/node``: the root of the node agent's image, which needs no base, no shell, and nothing of its node.

    usr/libexec/istio-capture/          the bundle: what the agent installs on the node, and ``capture`` for people
    usr/libexec/istio-capture-agent/    Python as it is on this machine, with the extra ``agent`` and the project

The agent's packages have modules in C that cannot be frozen, so it has an ordinary Python, which the bundle's launcher
starts with a C library of its own. Needs what the bundle needs, and pip.
"""

from __future__ import annotations

import argparse
import compileall
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from build import BuildError, compiler, copy_shared_libraries, strip

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUNDLE, AGENT = Path("usr/libexec/istio-capture"), Path("usr/libexec/istio-capture-agent")
LEFT_OUT = (
    *("test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "distutils", "pydoc_data", "venv"),
    *("__pycache__", "site-packages", "dist-packages", "config-*", "unittest", "sqlite3", "curses", "xmlrpc"),
)
NOT_NEEDED = ("pip", "setuptools", "pkg_resources", "share", "bin")


def main() -> int:
    """Build the image's root and print where it is and how large."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "node")
    parser.add_argument("--bundle", type=Path, default=ROOT / "dist" / "bundle")
    options = parser.parse_args()
    try:
        build(options.output, options.bundle)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    return 0


def build(output: Path, bundle: Path) -> None:
    """Build into a directory next to the output, then rename it."""
    if not (bundle / "capture-cni").exists():
        raise BuildError(f"{bundle} is no bundle: run `make bundle` first")
    fresh = output.with_name(output.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(bundle, fresh / BUNDLE, symlinks=True)
    copy_python(fresh / AGENT)
    for name in ("tmp", "run", "proc", "sys", "dev", "etc", "var/log"):
        (fresh / name).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(output, ignore_errors=True)
    fresh.rename(output)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file() and not file.is_symlink())
    print(f"node: {output}, {size / 1e6:.0f} MB")


def copy_python(target: Path) -> None:
    """Copy the interpreter, its library and the agent's packages, and the shared libraries that they need."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = target / "lib" / version
    print(f"node: copying {version} and installing the agent's packages", flush=True)
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=False)
    shutil.copy2(os.path.realpath(sys.executable), target / "lib" / "interpreter")
    install_packages(target / "lib" / "packages")
    compileall.compile_dir(target / "lib", quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    compiler("-static", str(HERE / "launcher.c"), "-o", str(target / "python"), prefer="musl-gcc")
    strip(target / "python")
    objects = [target / "lib" / "interpreter", *(target / "lib").rglob("*.so")]
    copy_shared_libraries(objects, target / "lib")


def install_packages(target: Path) -> None:
    """Install the project with its extra ``agent`` from this checkout."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    done = subprocess.run(
        [*pip, "--no-compile", "--target", str(target), f"{ROOT}[agent]"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BuildError(f"pip could not install the agent's packages:\n{done.stderr[-2000:]}")
    for name in NOT_NEEDED:
        shutil.rmtree(target / name, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

"""Builds ``dist/bundle``: our programs with an interpreter and a C library of their own, for nodes that have neither.

    dist/bundle/capture-cni, istio-init, capture   one static launcher, by three names
    dist/bundle/lib/ld.so, libc.so.6, ...          the C library of the machine it was built on
    dist/bundle/lib/interpreter                    Python, with all our modules and those of its library frozen in
    dist/bundle/lib/dynload/                       what Python has as shared objects
    dist/bundle/share/                             manual pages, and completion for shells

Needs a C compiler, the static library of Python (Debian: libpython3-dev) and click.
"""

from __future__ import annotations

import _imp
import argparse
import marshal
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from modulefinder import ModuleFinder
from pathlib import Path

from freeze import code_of, grouped_modules, links_between

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import shared_files  # noqa: E402  # it is in the parent directory

ROOT = HERE.parent.parent
PROGRAMS = {
    "capture-cni": "cni.__main__",
    "istio-init": "initcontainer.__main__",
    "capture": "capture.cli",
    "kubectl-capture": "cni.agent.kubectl",
}
READ_TOGETHER = (
    *("cni.__main__", "cni.plugin", "cni.cleanup", "capture.operations.applying", "capture.operations.comparison"),
    *("capture.backends.nftables.netlink", "capture.backends.iptables.netlink"),
    *("initcontainer.__main__", "capture.cli"),
)
"""What a process of the plugin, and others, import at their start or in a function: all that one of them needs."""
OWN_PACKAGES = ("capture", "cni", "initcontainer", "injection", "sidecar")
ALWAYS = ("encodings.utf_8", "encodings.ascii", "encodings.latin_1", "encodings.idna", "encodings.aliases")
"""Codecs are looked up by name when text is first decoded, which no import statement shows."""
LEFT_OUT = (
    *("iptc", "nftables", "pyroute2", "distutils", "setuptools", "pip"),
    *("test", "unittest", "doctest", "pdb", "pydoc", "curses", "readline", "tkinter", "sqlite3", "lib2to3"),
    *("yaml._yaml", "yaml.cyaml"),
    *("hpack", "httpx2", "inotify_simple", "lightkube", "prometheus_client"),
    *("asyncio", "concurrent", "multiprocessing", "xml", "xmlrpc", "colorama", "ctypes.macholib"),
)
"""Extras that a node has no use for: other drivers, and what the standard library offers to developers."""


OCTAL = tuple([f"\\{byte:03o}" for byte in range(256)])
LINKED_STATICALLY = ("-lz", "-lexpat")
"""What Python's own modules need: each shared library less is a tenth of a millisecond less to start."""


class BuildError(Exception):
    """The bundle cannot be built here; the message names what is missing."""


def main() -> int:
    """Build the bundle and print where it is and how large."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "bundle")
    output = parser.parse_args().output
    try:
        build(output)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    return 0


def build(output: Path) -> None:
    """Build into a directory next to the output, then rename it."""
    fresh = output.with_name(output.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    library = fresh / "lib"
    (library / "dynload").mkdir(parents=True)
    print("bundle: finding modules", flush=True)
    modules, extensions = find_modules()
    with tempfile.TemporaryDirectory() as scratch:
        print(f"bundle: compiling an interpreter with {len(modules)} modules", flush=True)
        write_frozen(Path(scratch) / "frozen.h", modules)
        compile_interpreter(Path(scratch), library / "interpreter")
        compile_launcher(fresh)
    for extension in extensions:
        shutil.copy2(extension, library / "dynload")
    copy_shared_libraries([library / "interpreter", *extensions], library)
    shared_files.write(fresh / "share")
    shutil.rmtree(output, ignore_errors=True)
    fresh.rename(output)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file() and not file.is_symlink())
    print(f"bundle: {output}, {size / 1e6:.1f} MB, carries {glibc_version()}")


# --- what goes in ----------------------------------------------------------------------------------


def find_modules() -> tuple[dict[str, tuple[bytes, bool]], list[Path]]:
    """Return every Python module that our programs may import, as code, and the shared objects among them."""
    finder = ModuleFinder(path=[str(ROOT), *sys.path], excludes=list(LEFT_OUT))
    for package in OWN_PACKAGES:
        for source in sorted((ROOT / package).rglob("*.py")):
            finder.import_hook(".".join(source.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    for name in ALWAYS:
        finder.import_hook(name)
    files = {
        name: Path(vars(module)["__file__"]) for name, module in finder.modules.items() if vars(module)["__file__"]
    }
    extensions = {name: path for name, path in files.items() if path.suffix == ".so"}
    modules = own_modules({name: path for name, path in files.items() if is_own(name)}, extensions)
    for name, path in files.items():
        if path.suffix == ".py" and not is_own(name) and not _imp.is_frozen(name):  # Python's own need no unmarshalling
            code = code_of(path, name, own=False)
            modules[name] = (marshal.dumps(code), bool(vars(finder.modules[name])["__path__"]))
    return modules, list(extensions.values())


def own_modules(files: dict[str, Path], extensions: dict[str, Path]) -> dict[str, tuple[bytes, bool]]:
    """Return our modules in groups, each a code whose constants ``bundle_start`` reads; and what is in which group."""
    links = links_between(files)
    groups, group_of = {}, dict[str, str]()
    for number, names in enumerate(grouped_modules(links, READ_TOGETHER)):
        modules = tuple([(name, *links[name], code_of(files[name], name, own=True)) for name in names])
        groups[f"bundle_{number}"] = compile("", "<bundle>", "exec").replace(co_consts=modules)
        group_of |= dict.fromkeys(names, f"bundle_{number}")
    tables = f"GROUPS = {group_of!r}\nEXTENSIONS = { {name: path.name for name, path in extensions.items()}!r}"
    start = {
        "bundle_start": code_of(HERE / "bundle_start.py", "bundle_start", own=True),
        "bundle_tables": compile(tables, "<bundle_tables>", "exec"),
    }
    return {name: (marshal.dumps(code), False) for name, code in (start | groups).items()}


def is_own(name: str) -> bool:
    """Return whether a module belongs to this project."""
    return name.partition(".")[0] in OWN_PACKAGES


def write_frozen(path: Path, modules: dict[str, tuple[bytes, bool]]) -> None:
    """Write the table of frozen modules and the table of programs as C."""
    with path.open("w", encoding="ascii") as header:
        for place, (code, _) in enumerate(modules.values()):
            text = "".join(map(OCTAL.__getitem__, code))  # which a compiler reads in no time, unlike a list of numbers
            header.write(f'static const unsigned char module_{place}[] = "{text}";\n')
        header.write("static const struct _frozen FROZEN_MODULES[] = {\n")
        for place, (name, (code, is_package)) in enumerate(modules.items()):
            header.write(f'    {{"{name}", module_{place}, {len(code)}, {int(is_package)}}},\n')
        header.write("    {NULL, NULL, 0, 0},\n};\n")
        header.write("struct program { const char *name, *module; };\nstatic const struct program PROGRAMS[] = {\n")
        for name, module in PROGRAMS.items():
            header.write(f'    {{"{name}", "{module}"}},\n')
        header.write("    {NULL, NULL},\n};\n")


# --- compiling -------------------------------------------------------------------------------------


def compile_interpreter(scratch: Path, target: Path) -> None:
    """Compile and link the interpreter against Python's static library."""
    variables = sysconfig.get_config_vars("LIBPL", "LIBRARY", "LIBS", "SYSLIBS", "MODLIBS", "LINKFORSHARED")
    directory, library, *flags = (value or "" for value in variables)
    archive = Path(directory) / library
    if not archive.exists():
        raise BuildError(f"{archive} is missing: install libpython3-dev (Debian, Ubuntu) or python3-devel (Fedora)")
    linker_flags = [flag for group in flags for flag in group.split() if flag.startswith(("-l", "-Wl,"))]
    libraries = dict.fromkeys(flag for flag in linker_flags if flag not in LINKED_STATICALLY)
    compiler(
        "-no-pie",
        f"-I{scratch}",
        f"-I{sysconfig.get_path('include')}",
        str(HERE / "interpreter.c"),
        "-Wl,-export-dynamic",
        *(["-Wl,--unresolved-symbols=ignore-in-object-files"] if _lacks_hashes(Path(directory), flags) else []),
        str(archive),
        *libraries,
        *("-Wl,-Bstatic", *LINKED_STATICALLY, "-Wl,-Bdynamic"),
        "-o",
        str(target),
    )
    strip(target)


def _lacks_hashes(directory: Path, flags: list[str]) -> bool:
    """Return whether a library of hashes that Python was linked with is not there: Debian 13 does not pack it.

    The module that would call it is left out by ``interpreter.c``; OpenSSL has the same hashes.
    """
    own = [Path(flag).name for group in flags for flag in group.split() if flag.endswith(".a")]
    return any(name.startswith("libHacl") and not (directory / name).exists() for name in own)


def compile_launcher(directory: Path) -> None:
    """Compile the launcher and give it its names.

    With musl if it is there: glibc reads from the processor the sizes of its caches before ``main``, which a virtual
    machine answers slowly (CPUID leaves it each time): it takes a millisecond.
    """
    first, *others = PROGRAMS
    compiler("-static", str(HERE / "launcher.c"), "-o", str(directory / first), prefer="musl-gcc")
    strip(directory / first)
    for name in others:
        os.link(directory / first, directory / name)


def compiler(*arguments: str, prefer: str = "cc") -> None:
    """Run the C compiler."""
    command = shutil.which(prefer) or shutil.which("cc") or shutil.which("gcc")
    if command is None:
        raise BuildError("no C compiler: install gcc and libc6-dev (Debian, Ubuntu)")
    done = subprocess.run([command, "-O2", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"the compiler failed:\n{done.stderr[-2000:]}")


def strip(path: Path) -> None:
    """Remove symbols that only a debugger reads."""
    if shutil.which("strip"):
        subprocess.run(["strip", "--strip-unneeded", str(path)], check=True)


# --- shared libraries --------------------------------------------------------------------------------


def copy_shared_libraries(objects: list[Path], target: Path) -> None:
    """Copy the dynamic linker and every library that the objects need, as ldd(1) finds them."""
    needed: dict[str, str] = {}
    for each in objects:
        listing = subprocess.run(["ldd", str(each)], capture_output=True, text=True, check=True).stdout
        needed |= dict(re.findall(r"^\s*(\S+) => (/\S+) \(0x", listing, re.MULTILINE))
        for linker in re.findall(r"^\s*(/\S*/ld-linux\S*) \(0x", listing, re.MULTILINE):
            needed["ld.so"] = linker
    for name, path in needed.items():
        shutil.copy2(os.path.realpath(path), target / name)


def glibc_version() -> str:
    """Return the version of the C library that is copied."""
    return os.confstr("CS_GNU_LIBC_VERSION") or "?"


if __name__ == "__main__":
    sys.exit(main())

"""What is released: the same bytes each time, manual pages, completions, and a description that works elsewhere."""

import email
import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import release
import shared_files

import capture
from capture.cli.group import COMMANDS
from capture.settings.options import OPTIONS
from pytest_netns import require

ROOT = Path(capture.__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two directories with a wheel and an sdist, one built after the other."""
    require(importlib.util.find_spec("hatchling"), "the package hatchling is missing")
    made = [tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")]
    for seed, directory in enumerate(made):
        environ = {**os.environ, "PYTHONHASHSEED": str(seed), "SOURCE_DATE_EPOCH": "1700000000"}
        command = [sys.executable, "-m", "hatchling", "build", "-d", str(directory)]
        subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, check=True)
    return made


def test_building_twice_gives_the_same_bytes(built: list[Path]) -> None:
    first, second = ({path.name: path.read_bytes() for path in directory.iterdir()} for directory in built)
    assert sorted(first) == ["istio_capture-0.1.0-py3-none-any.whl", "istio_capture-0.1.0.tar.gz"]
    assert first == second


def test_the_wheel_runs_and_brings_manual_pages_and_completions(built: list[Path], tmp_path: Path) -> None:
    (wheel,) = built[0].glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            archive.extract(name, tmp_path)

    for module, program in (("capture", "capture"), ("initcontainer", "istio-init")):
        command = [sys.executable, "-m", module, "--version"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == f"{program} {capture.__version__}\n"
    share = tmp_path / f"istio_capture-{capture.__version__}.data/data/share"
    assert {str(path.relative_to(share)) for path in share.rglob("*") if path.is_file()} == {
        place for place, _ in shared_files.files()
    }


def test_every_address_of_the_package_is_made_from_one(built: list[Path]) -> None:
    (wheel,) = built[0].glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    repository = project["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"]

    assert metadata["Author"]
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL", []))
    assert urls.keys() == {"Repository", "Documentation", "Changelog", "Issues"}
    links = re.findall(r"\]\(([^)#]+)\)", str(metadata.get_payload()))
    assert len(links) > 5
    assert [link for link in [*urls.values(), *links] if not link.startswith(repository)] == []


def test_a_release_without_an_address_warns() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert "set `repository` in pyproject.toml" in release.unset_repository(text)
    assert release.unset_repository(text.replace("istio-capture.example", "github.com")) == ""


def test_every_command_has_its_place_in_the_manual() -> None:
    page = dict(shared_files.files())["man/man1/capture.1"]
    headings = re.findall(r'^\.SH "capture (.*)"$', page, re.MULTILINE)
    assert {heading.split()[0] for heading in headings} == set(COMMANDS)
    assert ".B \\-p, \\-\\-envoy\\-port PORT" in page


TYPED = {
    "istio-init --dr": {"--drop-invalid", "--driver", "--dry-run"},
    "istio-init --driver ": {"netlink", "libnftables", "restore", "iptc"},
    "istio-init --profile = cur": {"current"},
    "istio-init --backend =": {"auto", "iptables", "nftables"},
    "istio-init istio": {"istio-iptables"},
    "istio-init -p ": set(),
}
"""What is typed, as bash splits it, and what it offers."""


@pytest.mark.parametrize("line", TYPED)
def test_bash_completes_istio_init(line: str, tmp_path: Path) -> None:
    script = tmp_path / "istio-init"
    script.write_text(dict(shared_files.files())["bash-completion/completions/istio-init"])
    program = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _istio_init; printf "%s\n" "${COMPREPLY[@]}"'
    words = line.split(" ")
    done = subprocess.run(["bash", "-c", program, script, *words], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == TYPED[line]


def test_every_shell_completes_every_flag_of_istio_init() -> None:
    files = dict(shared_files.files())
    for option in OPTIONS:
        if option.flag:
            assert f"--{option.flag}" in files["bash-completion/completions/istio-init"]
            assert f"--{option.flag}{'' if option.is_switch else '='}[" in files["zsh/site-functions/_istio-init"]
            assert f" -l {option.flag} " in files["fish/vendor_completions.d/istio-init.fish"]


def test_an_archive_says_nothing_of_who_packed_it(tmp_path: Path) -> None:
    archives = []
    for number in range(2):
        directory = tmp_path / f"files-{number}"
        (directory / "lib").mkdir(parents=True)
        for name in ("b", "a") if number else ("a", "b"):
            (directory / "lib" / name).write_text(name)
            os.utime(directory / "lib" / name, (number, number))
        (directory / "lib/a").chmod(0o755)
        archives.append(tmp_path / f"{number}.tar.gz")
        release.pack(directory, archives[-1], 1_700_000_000)

    assert archives[0].read_bytes() == archives[1].read_bytes()
    with tarfile.open(archives[0]) as tar:
        entries = {Path(entry.name).name: entry for entry in tar.getmembers()}
    assert (entries["a"].mode, entries["b"].mode, entries["a"].uname) == (0o755, 0o644, "root")


@pytest.mark.long
def test_the_whole_release_twice(tmp_path: Path) -> None:
    for name in ("first", "second"):
        release.build_release(tmp_path / name)
    first, second = ((tmp_path / name / "SHA256SUMS").read_text() for name in ("first", "second"))
    assert first == second
    assert len(first.splitlines()) == 4
    bill = json.loads(next((tmp_path / "first").glob("*.cdx.json")).read_text())
    assert {"PyYAML", "click", "cpython", "glibc", "openssl"} <= {component["name"] for component in bill["components"]}

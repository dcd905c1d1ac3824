"""A program's input, output and status, and which of the installed programs is of which variant."""

import os
import signal
import sys
from pathlib import Path

import pytest

from capture.backends.iptables import programs
from capture.backends.iptables.programs import find_iptables, find_program, require_iptables, run_program, variant_of
from capture.errors import UnsupportedError
from capture.model.addresses import IPV4, IPV6


class TestRun:
    def test_input_output_errors_and_status(self) -> None:
        done = run_program(["/bin/sh", "-c", "cat; echo complaint >&2; exit 3"], "words\n")

        assert (done.status, done.stdout, done.stderr) == (3, "words\n", "complaint\n")

    def test_a_program_may_read_and_print_more_than_a_pipe_holds(self) -> None:
        words = "".join(f"-A ISTIO_OUTPUT -d 10.{a}.{b}.0/24 -j RETURN\n" for a in range(200) for b in range(200))

        assert run_program(["/bin/cat"], words).stdout == words

    def test_a_program_that_does_not_read_its_input(self) -> None:
        done = run_program(["/bin/sh", "-c", "exec <&-; echo no; exit 2"], "x" * 1_000_000)

        assert (done.status, done.stdout) == (2, "no\n")

    def test_a_program_that_is_killed(self) -> None:
        assert run_program(["/bin/sh", "-c", "kill -9 $$"]).status == 128 + signal.SIGKILL

    def test_bytes_that_are_no_text_survive(self) -> None:
        assert run_program(["/bin/cat"], "\udcff\udc80 ").stdout == "\udcff\udc80 "

    def test_its_messages_are_english_in_our_environment(self) -> None:
        done = run_program(["/bin/sh", "-c", 'echo "$LC_ALL $XTABLES_LOCKFILE $HOME"'], "", {"XTABLES_LOCKFILE": "/x"})

        assert done.stdout == f"C /x {os.environ['HOME']}\n"

    def test_no_descriptor_is_left_open_on_either_side(self) -> None:
        before = os.listdir("/proc/self/fd")
        inside = run_program([sys.executable, "-I", "-S", "-c", "import os; print(*os.listdir('/proc/self/fd'))"])

        assert os.listdir("/proc/self/fd") == before
        assert set(inside.stdout.split()) <= {*before, "0", "1", "2", "3"}  # 3 lists the directory

    def test_a_program_that_is_not_there(self, tmp_path: Path) -> None:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(FileNotFoundError):
            run_program([str(tmp_path / "missing")])

        assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all of PATH; what is put there is installed, and nothing else is."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "SYSTEM_DIRECTORIES", ())
    return tmp_path


def install(directory: Path, name: str, version: str = "iptables v1.8.9 (nf_tables)") -> str:
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)
    return str(path)


class TestFind:
    def test_a_program_is_found_by_the_name_with_the_variant(self, installed: Path) -> None:
        path = install(installed, "ip6tables-legacy-save")

        assert find_iptables("legacy", IPV6, "save") == path
        assert find_iptables("legacy", IPV4, "save") is None
        assert find_iptables("nft", IPV6, "save") is None

    @pytest.mark.parametrize(
        ("version", "variant"),
        [
            ("iptables-restore v1.8.9 (nf_tables)", "nft"),
            ("iptables-restore v1.8.9 (legacy)", "legacy"),
            ("iptables v1.6.2", "legacy"),
        ],
    )
    def test_the_version_decides_where_the_name_has_no_variant(
        self, installed: Path, version: str, variant: str
    ) -> None:
        path = install(installed, "iptables-restore", version)

        assert variant_of(path) == variant
        assert find_iptables("nft", IPV4, "restore") == (path if variant == "nft" else None)
        assert find_iptables("legacy", IPV4, "restore") == (path if variant == "legacy" else None)

    def test_a_file_that_cannot_be_executed_does_not_count(self, installed: Path) -> None:
        (installed / "iptables-nft-save").mkdir()
        Path(install(installed, "iptables-nft-restore")).chmod(0o644)

        assert find_iptables("nft", IPV4, "save") is None
        assert find_iptables("nft", IPV4, "restore") is None

    def test_programs_are_found_in_the_directories_of_the_system_with_any_path(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for path in ("", "/nonexistent"):
            monkeypatch.setenv("PATH", path)
            assert find_program("sh") in ("/usr/bin/sh", "/bin/sh")

    def test_a_missing_program_is_named_with_its_package(self, installed: Path) -> None:
        with pytest.raises(UnsupportedError, match="ip6tables-legacy-restore is not installed") as caught:
            require_iptables("legacy", IPV6, "restore")

        assert "package iptables" in caught.value.remedy

"""The exit code is about the rules, whatever happens to the output."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from capture import make_settings, operations
from pytest_netns import Namespace, NamespaceFactory

BIN = Path(sys.executable).parent
CAPTURE, INIT = str(BIN / "capture"), str(BIN / "istio-init")

FULL, CLOSED, HUNG_UP = ">/dev/full", ">&-", ">&$HUNG_UP"
ALL_CLOSED = "<&- >&- 2>&-"
APPLY = {"capture": [CAPTURE, "apply"], "istio-init": [INIT, "-p", "15001", "-z", "15006", "-u", "1337"]}
SHOW = ("doctor", "dump", "render", "dump --format json", "trace tcp 10.9.9.9:80")


def run(namespace: Namespace, words: Sequence[str], redirection: str) -> subprocess.CompletedProcess[str]:
    """Run a program with its streams redirected by a shell; HUNG_UP is a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with namespace.entered():
            return subprocess.run(
                ["bash", "-c", f'"$@" {redirection}', "bash", *words],
                env={"PATH": os.environ["PATH"], "HUNG_UP": str(writer)},
                pass_fds=[writer],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
    finally:
        os.close(writer)


@pytest.mark.parametrize("redirection", [FULL, CLOSED, HUNG_UP, ALL_CLOSED, "2>&-", "2>/dev/full", f"{FULL} 2>&1"])
@pytest.mark.parametrize("words", APPLY.values(), ids=APPLY.keys())
def test_rules_that_were_written_are_a_success(netns: NamespaceFactory, words: list[str], redirection: str) -> None:
    pod = netns.pod()
    done = run(pod, words, redirection)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert operations.verify(namespace=pod.path).holds
    if redirection == FULL:
        assert "the output cannot be written: No space left on device; exit code 0 is about" in done.stderr


def test_drift_is_an_exit_code(netns: NamespaceFactory) -> None:
    pod = netns.pod()
    operations.apply(make_settings(), pod.path)
    for code in (0, 4):
        for redirection in (FULL, CLOSED, HUNG_UP, ALL_CLOSED):
            done = run(pod, [CAPTURE, "verify"], redirection)
            assert (done.returncode, "Traceback" in done.stderr) == (code, False)
        pod.run(["nft", "flush", "ruleset"])


@pytest.mark.parametrize("words", SHOW)
def test_a_command_that_is_there_for_its_output_fails_without_it(netns: NamespaceFactory, words: str) -> None:
    pod = netns.pod()
    operations.apply(make_settings(), pod.path)
    for redirection, code, message in (
        (FULL, 1, "error: the output cannot be written: No space left on device\n"),
        (CLOSED, 1, "error: the output cannot be written: it is closed\n"),
        (f"{FULL} 2>&1", 1, ""),
        (ALL_CLOSED, 1, ""),
        (HUNG_UP, 141, ""),
    ):
        done = run(pod, [CAPTURE, *words.split()], redirection)
        printed = "".join(line for line in done.stderr.splitlines(keepends=True) if not line.startswith("profile "))
        assert (done.returncode, printed) == (code, message), redirection

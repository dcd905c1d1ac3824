"""What a shell offers: by `python -m capture`, as the scripts of the shells call it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from capture.cli import options as completion


def offered(*words: str) -> list[str]:
    """Return what bash is offered for the last word."""
    environ = {**os.environ, "_CAPTURE_COMPLETE": "bash_complete"}
    environ |= {"COMP_WORDS": " ".join(["capture", *words]), "COMP_CWORD": str(len(words))}
    done = subprocess.run([sys.executable, "-m", "capture"], env=environ, capture_output=True, text=True, check=True)
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (("tr",), ["trace"]),
        (("cni", "inst"), ["install"]),
        (("apply", "--backend", ""), ["auto", "iptables", "nftables"]),
        (("apply", "--driver", ""), ["netlink", "libnftables", "restore", "iptc"]),
        (("apply", "--profile", "c"), ["classic", "current"]),
        (("verify", "--chain-names", "d"), ["dash"]),
        (("dump", "--format", "t"), ["table"]),
        (("apply", "--backe"), ["--backend"]),
    ],
)
def test_words_that_begin_so(words: tuple[str, ...], values: list[str]) -> None:
    assert offered(*words) == values


def test_namespaces_that_have_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pod-b", "pod-a", "other"):
        (tmp_path / name).touch()
    monkeypatch.setattr(completion, "NAMED_NAMESPACES", str(tmp_path))

    found = completion.named_namespaces(None, None, f"{tmp_path}/pod")  # type: ignore[arg-type]  # it looks at neither

    assert [item.value for item in found] == [f"{tmp_path}/pod-a", f"{tmp_path}/pod-b"]

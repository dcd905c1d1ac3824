"""What a pod writes into its rules never drives the terminal of a reader, nor forges a line."""

import contextlib
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_netns import Namespace, NamespaceFactory
from support.processes.our_programs import run_program

CAPTURE = str(Path(sys.executable).with_name("capture"))
TITLE, CYAN = "\033]0;owned\007", "\033[36m"
FORGED = "in sync: all is well"
COMMENT = f"{TITLE}{CYAN}\u202e\x9b31m\n{FORGED}\r\"'"
QUOTED_PREFIX = "a\"b'c$d"
COMMANDS = (
    ["dump"],
    ["dump", "--format", "save"],
    ["dump", "--format", "nft"],
    ["dump", "--family", "ipv4", "--table", "nat"],
    ["verify"],
    ["explain"],
    ["trace", "tcp", "10.1.2.3:80"],
    ["trace", "tcp", "10.1.2.3:81"],
    ["trace", "tcp", "10.1.2.3:83"],
    ["doctor"],
)


@pytest.fixture(scope="module")
def hostile(request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """Return a captured namespace with hostile rules, in all places that hold text."""
    with NamespaceFactory() as namespaces:
        pod = namespaces.pod()
        run_program(pod, "capture", "apply", "--backend", request.param)
        chain = f"EVIL{CYAN}"
        for rule in (
            ["-I", "OUTPUT", "-p", "tcp", "--dport", "80", "-m", "comment", "--comment", COMMENT, "-j", "RETURN"],
            ["-I", "OUTPUT", "-p", "tcp", "--dport", "81", "-j", "LOG", "--log-prefix", f"{TITLE}{CYAN}x"],
            ["-I", "OUTPUT", "-p", "tcp", "--dport", "82", "-j", "LOG", "--log-prefix", QUOTED_PREFIX],
            ["-N", chain],
            ["-A", "OUTPUT", "-j", chain],
            ["-I", "OUTPUT", "-o", f"e{CYAN}", "-j", "RETURN"],
            ["-I", "OUTPUT", "-o", os.fsdecode(b"e\xff"), "-j", "RETURN"],
        ):
            pod.run(["iptables", "-t", "nat", *rule])
        if request.param == "iptables":
            for prefix in (QUOTED_PREFIX, f"{TITLE}x"):
                pod.run(["iptables", "-t", "nat", "-A", "ISTIO-OUTPUT", "-j", "LOG", "--log-prefix", prefix])
        for line in (
            "add table inet other",
            "add chain inet other out { type nat hook output priority -150; }",
            f'add rule inet other out tcp dport 83 log prefix "{CYAN}x" redirect to :99 comment "{CYAN}c\n{FORGED}"',
        ):
            pod.run(["nft", "-f", "-"], stdin=line)
        yield pod


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    leader, follower = pty.openpty()
    try:
        yield leader, follower
    finally:
        os.close(leader)
        os.close(follower)


@pytest.mark.parametrize(
    ("hostile", "locale"),
    [("iptables", "C.UTF-8"), ("iptables", "C"), ("nftables", "C.UTF-8")],  # how it is printed depends on no backend
    indirect=["hostile"],
)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_nothing_but_our_colours_reaches_a_terminal(hostile: Namespace, command: list[str], locale: str) -> None:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "TERM": "xterm"}
    if locale == "C":
        environment["PYTHONUTF8"] = "0"
    with hostile.entered(), terminal() as (leader, follower):
        program = subprocess.Popen([CAPTURE, *command], env=environment, stdout=follower, stderr=follower)
        shown, has_ended = b"", False
        while not has_ended:
            has_ended = program.poll() is not None
            while select.select([leader], [], [], 0.02)[0]:
                shown += os.read(leader, 65536)
    assert program.returncode == (4 if command[0] in ("verify", "doctor") else 0)
    # Colours come from the capture, and so does the end of a progress line, which a busy machine shows.
    plain = re.sub(r"\033\[(?:(?:31|32|33|0)m|K)", "", shown.decode("utf-8", "surrogateescape"))
    harmful = [letter for letter in plain if not letter.isprintable() and letter not in "\r\n\t"]
    assert harmful == []
    assert b"defect" not in shown
    assert FORGED.encode() not in [line.strip() for line in shown.splitlines()]

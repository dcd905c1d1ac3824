"""The commands of `capture`: their help, and bad usage as an error in words."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from capture import __version__
from capture.cli.group import COMMANDS, capture, run
from capture.cli.options import (
    OF_PROCESS_ALONE,
    CaptureCommand,
    SettingOption,
    example_lines,
    with_explicit_switches,
)

PROGRAM = Path(sys.executable).with_name("capture")
GROUPS = ("cni", "node", "host")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0

    printed = capsys.readouterr().out
    assert printed.startswith(f"Usage: capture {name}")
    assert f"capture {name}" in printed.partition("Examples:")[2] or name in GROUPS


LEAVES = [
    *(name for name in COMMANDS if name not in GROUPS),
    *(f"cni {name}" for name in ("install", "status", "uninstall")),
    *(f"node {name}" for name in ("agent", "status", "pods", "pod", "uninstall")),
    *(f"host {name}" for name in ("apply", "status", "clean")),
]


@pytest.mark.parametrize("words", LEAVES)
def test_help_fits_a_terminal_of_80_columns(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    assert run([*words.split(), "--help"]) == 0

    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []


def test_a_long_example_goes_on_in_the_next_line() -> None:
    assert list(example_lines("capture dump --format json | jq '.a | .b'     # why", 40)) == [
        "# why",
        "capture dump --format json \\",
        "    | jq '.a | .b'",
    ]


def test_options_are_listed_by_topic_with_their_variables(capsys: pytest.CaptureFixture[str]) -> None:
    run(["apply", "--help-all"])

    printed = capsys.readouterr().out
    for part in (
        "Capture:\n",
        "Redirect ports:\n",
        "TPROXY:\n",
        "In the environment only:\n",
        "-b, --istio-inbound-ports PORTS\n",
    ):
        assert part in printed
    assert "[env: ENVOY_PORT]" in printed
    assert "ISTIO_OUTBOUND_OWNER_GROUPS=GROUPS" in printed


@pytest.mark.parametrize("program", ["capture", "istio-init"])
def test_a_program_says_its_name_and_version(program: str) -> None:
    done = subprocess.run([PROGRAM.with_name(program), "--version"], capture_output=True, text=True, check=True)

    assert done.stdout == f"{program} {__version__}\n"


def test_the_commands_are_listed_without_importing_them() -> None:
    code = (
        "import sys, capture.cli.group as group; sys.argv[1:] = ['--help']; group.run();"
        "print(*sorted(name for name in sys.modules if name.startswith('capture')), file=sys.stderr)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "Show the live rules" in done.stdout
    assert done.stderr.split() == [
        "capture",
        "capture.cli",
        "capture.cli.group",
        "capture.errors",
        "capture.model",
        "capture.model.text",
        "capture.report",
        "capture.report.output",
        "capture.report.streams",
    ]


def test_dump_imports_only_what_it_needs() -> None:
    code = (
        "import sys, capture.cli.dump;"
        "print(*(name for name in ('json', 'subprocess', 'pyroute2', 'textwrap', 'ipaddress', 'asyncio')"
        " if name in sys.modules))"
    )
    click_alone = "import sys, click; print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    needed = subprocess.run([sys.executable, "-c", click_alone], capture_output=True, text=True, check=True)

    assert set(done.stdout.split()) <= set(needed.stdout.split())


def test_a_switch_takes_its_value_after_an_equals_sign_only() -> None:
    switches, with_values = {"--dual-stack"}, {"-p", "--envoy-port"}

    def spelled(*arguments: str) -> list[str]:
        return with_explicit_switches(list(arguments), switches, with_values)

    assert spelled("--dual-stack", "-p", "1") == ["--dual-stack=true", "-p", "1"]
    assert spelled("--dual-stack=false") == ["--dual-stack=false"]
    assert spelled("--dual-stack", "yes") == ["--dual-stack=true", "yes"]
    assert spelled("-p", "true") == ["-p", "true"]
    assert spelled("--envoy-port", "--dual-stack") == ["--envoy-port", "--dual-stack"]
    assert spelled("--envoy-port=1", "--dual-stack") == ["--envoy-port=1", "--dual-stack=true"]
    assert spelled("--", "--dual-stack") == ["--", "--dual-stack"]
    assert spelled("-p") == ["-p"]


@pytest.mark.parametrize("name", ["apply", "verify", "render", "trace", "explain"])
def test_commands_about_a_capture_take_its_options(name: str) -> None:
    command = capture.get_command(click.Context(capture), name)

    assert isinstance(command, CaptureCommand)
    flags = {param.setting.flag for param in command.params if isinstance(param, SettingOption)}
    assert {"envoy-port", "istio-service-cidr", "redirect-dns", "profile", "chain-names", "backend", "driver"} <= flags


def test_a_shell_is_offered_commands_and_values() -> None:
    environment = {**os.environ, "_CAPTURE_COMPLETE": "bash_complete", "COMP_WORDS": "capture ver", "COMP_CWORD": "1"}

    done = subprocess.run([PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "plain,verify\n"

    environment |= {"COMP_WORDS": "capture dump --format ", "COMP_CWORD": "3"}
    done = subprocess.run([PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["plain,table", "plain,json", "plain,save", "plain,nft"]


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "Commands:" in capsys.readouterr().err


def test_help_shows_purpose_examples_and_own_options_first(capsys: pytest.CaptureFixture[str]) -> None:
    run(["verify", "--help"])

    printed = capsys.readouterr().out
    assert printed.index("Compare the live rules") < printed.index("Examples:") < printed.index("Options:\n")
    assert "--istio-inbound-ports" not in printed
    assert "capture verify --help-all" in printed
    assert len(printed.splitlines()) < 60


def test_a_misspelt_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dumpp"]) == 2
    assert "Did you mean 'dump'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dump", "--famly", "ipv4"], "no such option '--famly'. Did you mean '--family'?"),
        (
            ["apply", "--include-outbound-cidrs", "10.0.0.0/8"],
            "no such option '--include-outbound-cidrs'. Did you mean '--istio-service-cidr'?",
        ),
        (["cni", "instal"], "no such command 'instal'. Did you mean 'install' or 'uninstall'?"),
        (["inject", "pod.yaml"], "unexpected argument 'pod.yaml'; files are named with -f"),
        (["clean", "pod"], "unexpected argument 'pod'"),
        (["render", "--redirect-dns", "true"], "--redirect-dns takes a value after = only: --redirect-dns=true"),
        (
            ["verify", "--redirect-dns", "true", "false"],
            "--redirect-dns takes a value after = only: --redirect-dns=true",
        ),
        (["render", "--redirect-dns", "on"], "unexpected argument 'on'"),
        (
            ["diff", "--netns", "x"],
            (
                "capture diff has no option --netns: it compares two sets of options of the capture, or two"
                " files of `capture dump --format json`"
            ),
        ),
        (
            ["diff", "-p 1"],
            (
                "missing argument B: expected options of the capture in quotes, or a file written by"
                " `capture dump --format json`"
            ),
        ),
        (["dump", "--netns", ""], "--netns: invalid value '': expected a path, or a name of `ip netns`"),
        (
            ["trace", "tcp", "1.2.3.4"],
            (
                "ADDRESS:PORT: invalid value '1.2.3.4': expected an address with a port (1-65535), such as"
                " 10.1.2.3:80 or [fd00::1]:80"
            ),
        ),
        (
            ["trace", "tcp", "[fe80::1%eth0]:80"],
            "fe80::1%eth0: expected an address without a zone: name the interface by --in or --out",
        ),
        (
            ["host", "apply", "--confirm-within", "0"],
            "--confirm-within: invalid value '0': expected a whole number from 1 to 3600",
        ),
        (
            ["cni", "install", "--profile", "2"],
            "--profile: invalid value '2': expected 1.8 (classic) or 1.30 (current)",
        ),
        (["apply", "--dry-run"], "no such option '--dry-run'"),
        (["trace"], "missing argument PROTOCOL: expected tcp or udp, before the address"),
        (["dump", "--netns"], "--netns: missing value: expected a path, or a name of `ip netns`"),
        (["render", "-z"], "-z: missing value: expected a port (1-65535)"),
        (
            ["diff", "-p 1 2 3", ""],
            (
                "capture diff: invalid value '-p 1 2 3': expected options of the capture in quotes, or a file written"
                " by `capture dump --format json`; unexpected arguments '2 3'"
            ),
        ),
        (
            ["diff", "-o 8", "-p x"],
            (
                "capture diff: invalid value '-p x': expected options of the capture in quotes, or a file written by"
                " `capture dump --format json`; -p, --envoy-port: invalid value 'x': expected a port (1-65535)"
            ),
        ),
        *(
            (["trace", "tcp", "1.2.3.4:80", *options.split()], OF_PROCESS_ALONE)
            for options in ("--as-pid 1 --pid 1", "--pid 1 --as-pid 1", "--as-pid 1 --netns x")
        ),
        (["verify", "--pid", "1", "--netns", "x"], "give --netns or --pid, not both"),
        (
            ["diff", "/proc/self/comm", ""],
            "capture diff: invalid value '/proc/self/comm': expected a file written by `capture dump --format json`",
        ),
    ],
)
def test_usage_errors_are_one_line(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert run(words) == 2
    assert capsys.readouterr().err.splitlines()[0] == f"error: {message}"


@pytest.mark.parametrize(("words", "flag"), [(["render", "--prt"], "--help-all"), (["clean", "pod"], "--help")])
def test_a_usage_error_names_the_help_that_has_every_option(
    capsys: pytest.CaptureFixture[str], words: list[str], flag: str
) -> None:
    assert run(words) == 2
    assert capsys.readouterr().err.endswith(f"\n  See `capture {words[0]} {flag}`.\n")


def test_a_mistyped_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verfy"]) == 2
    assert capsys.readouterr().err.startswith("error: no such command 'verfy'")

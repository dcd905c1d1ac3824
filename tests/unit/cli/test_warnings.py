"""What a command warns of that reads options of the capture, and applies nothing."""

import pytest

from capture.cli.group import run

EVERYTHING = "warning: --istio-service-exclude-cidr 0.0.0.0/0 (command line) holds every IPv4 address"


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "command", [["render"], ["trace", "tcp", "1.2.3.4:80", "--from-options"], ["explain", "--from-options"], ["diff"]]
)
def test_each_command_warns_of_options_that_cancel_the_capture(
    command: list[str], form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    forms = ["--format", "json"] if form == "json" else []

    options = ["-x 0.0.0.0/0", "-x 0.0.0.0/0"] if command == ["diff"] else ["-x", "0.0.0.0/0"]
    assert run([*command, *options, *forms]) == 0

    assert capsys.readouterr().err.startswith(EVERYTHING)


@pytest.mark.parametrize(
    ("flag", "value", "refused"),
    [("--mark", "1338", ""), ("--connection-mark", "0", ""), ("--mark", "0x1/0xff", "a number from 0"),
     ("--in", "eth+", "an interface name"), ("--out", "eth0", "")],
)  # fmt: skip
def test_a_packet_has_marks_and_interfaces_of_its_own(
    flag: str, value: str, refused: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["trace", "tcp", "1.2.3.4:80", "--from-options", flag, value]) == (2 if refused else 0)

    expected = f"error: {flag}: invalid value {value!r}: expected {refused}" if refused else "profile"
    assert capsys.readouterr().err.startswith(expected)


def test_a_family_without_rules_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["render", "--ip-families", "ipv4", "--family", "ipv6"]) == 0

    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("warning: --family ipv6: no rules: only IPv4 is captured\n")

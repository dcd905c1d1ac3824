"""The flags of upstream's program, in all forms of pflag, and the error for each wrong one."""

import pytest

from capture.settings.options import (
    CLEANUP_ONLY,
    DRY_RUN,
    DUAL_STACK,
    EXCLUDED_OUTBOUND_NETWORKS,
    INBOUND_PORTS,
    LOG_AS_JSON,
    LOG_OUTPUT_LEVEL,
    OPTIONS,
    PROFILE,
    PROXY_PORT,
    PROXY_UID,
    Option,
)
from initcontainer.arguments import CommandLine, HelpRequested, UsageError, VersionRequested, parse_arguments
from initcontainer.upstream_flags import IGNORED_FLAGS, PERSISTENT_FLAGS, newer_mesh
from support.captures.fake_pod import explicit
from support.captures.injected_arguments import INJECTED, LOG_FLAGS

LOG_OPTIONS = {LOG_OUTPUT_LEVEL, LOG_AS_JSON}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {}),
        (["-p15001"], {PROXY_PORT: "15001"}),
        (["-p", "15001"], {PROXY_PORT: "15001"}),
        (["-p=15001"], {PROXY_PORT: "15001"}),
        (["--envoy-port", "15001"], {PROXY_PORT: "15001"}),
        (["--envoy-port=15001"], {PROXY_PORT: "15001"}),
        (["-x", ""], {EXCLUDED_OUTBOUND_NETWORKS: ""}),
        (["-x="], {EXCLUDED_OUTBOUND_NETWORKS: ""}),
        (["--istio-service-exclude-cidr="], {EXCLUDED_OUTBOUND_NETWORKS: ""}),
        (["-n"], {DRY_RUN: "true"}),
        (["-n=false"], {DRY_RUN: "false"}),
        (["--dry-run"], {DRY_RUN: "true"}),
        (["--dry-run=false"], {DRY_RUN: "false"}),
        (["-np", "15001"], {DRY_RUN: "true", PROXY_PORT: "15001"}),
        (["-np15001"], {DRY_RUN: "true", PROXY_PORT: "15001"}),
        (["-p", "1", "-p", "2"], {PROXY_PORT: "2"}),
        (["--dual-stack", "-b", "*"], {DUAL_STACK: "true", INBOUND_PORTS: "*"}),
        (["-u", "-1"], {PROXY_UID: "-1"}),
        (["-u", "--dry-run"], {PROXY_UID: "--dry-run"}),
        (["istio-iptables", "-p", "15001"], {PROXY_PORT: "15001"}),
        (["--log_as_json", "--vklog", "9", "istio-iptables", "-n"], {LOG_AS_JSON: "true", DRY_RUN: "true"}),
        (["--log_target=x", "istio-clean-iptables"], {CLEANUP_ONLY: "true"}),
        (["-p", "15001", "--"], {PROXY_PORT: "15001"}),
        (["--envoy-port=a=b"], {PROXY_PORT: "a=b"}),
    ],
)
def test_flags_have_the_forms_of_pflag(arguments: list[str], expected: object) -> None:
    assert parse_arguments(arguments, OPTIONS).flags == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--no-such"], "unknown flag --no-such"),
        (
            ["--exclude-inbound-ports", "80"],
            "unknown flag --exclude-inbound-ports; did you mean --istio-local-exclude-ports?",
        ),
        (["-Z"], "unknown flag -Z"),
        (["-nZ"], "unknown flag -Z in -nZ"),
        (["-p"], "-p: missing value: expected a port (1-65535)"),
        (["--envoy-port"], "--envoy-port: missing value: expected a port (1-65535)"),
        (["--dry-run", "false"], "--dry-run takes a value after = only: --dry-run=false"),
        (["-n", "1"], "-n takes a value after = only: -n=1"),
        (["--dry-run", "yes"], "unexpected argument 'yes': expected flags only"),
        (["--dry-run=true", "false"], "unexpected argument 'false': expected flags only"),
        (["-p", "1", "true"], "unexpected argument 'true': expected flags only"),
        (["15001"], "unexpected argument '15001': expected flags only"),
        (["--", "-p"], "unexpected argument '-p': expected flags only"),
        (["-p", "1", "istio-iptables"], "unexpected argument 'istio-iptables': expected flags only"),
        ([""], "unexpected argument '': expected flags only"),
        (["-"], "unexpected argument '-': expected flags only"),
    ],
)
def test_a_wrong_argument_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_arguments(arguments, OPTIONS)

    assert caught.value.message == message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["istio-iptables", "--help"], ["-p", "1", "-h"]])
def test_help_is_requested(arguments: list[str]) -> None:
    with pytest.raises(HelpRequested):
        parse_arguments(arguments, OPTIONS)


@pytest.mark.parametrize("arguments", [["--version"], ["version"], ["istio-iptables", "--version"]])
def test_the_version_is_requested(arguments: list[str]) -> None:
    with pytest.raises(VersionRequested):
        parse_arguments(arguments, OPTIONS)


def test_every_flag_of_the_table_is_taken() -> None:
    for option in OPTIONS:
        if option.flag:
            assert parse_arguments([f"--{option.flag}=x"], OPTIONS).flags == {option: "x"}
        if option.short:
            assert parse_arguments([f"-{option.short}=x"], OPTIONS).flags == {option: "x"}


@pytest.mark.parametrize("log_flags", LOG_FLAGS, ids=" ".join)
@pytest.mark.parametrize("arguments", INJECTED.values(), ids=INJECTED)
def test_flags_of_the_log_change_nothing_else_and_are_no_news(arguments: list[str], log_flags: list[str]) -> None:
    expected = parse_arguments(arguments, OPTIONS)
    for where in ([*arguments, *log_flags], [arguments[0], *log_flags, *arguments[1:]]):
        found = parse_arguments(where, OPTIONS)
        assert {option: text for option, text in found.flags.items() if option not in LOG_OPTIONS} == expected.flags
        assert found.warnings == expected.warnings == []


def test_the_log_has_its_settings() -> None:
    flags = parse_arguments(["--log_output_level", "warn", "--log_as_json"], OPTIONS).flags
    assert flags == {LOG_OUTPUT_LEVEL: "warn", LOG_AS_JSON: "true"}


@pytest.mark.parametrize("option", [option for option, reason in IGNORED_FLAGS.items() if reason])
def test_a_flag_of_another_version_of_upstream_is_warned_of(option: "Option[str]") -> None:
    name = option.flag
    for words in ([f"--{name}=x"], [f"--{name}"] if option.is_switch else [f"--{name}", "x"]):
        found = parse_arguments([*words, "-p", "1"], OPTIONS)
        assert found.flags == {PROXY_PORT: "1"}
        (warning,) = found.warnings
        assert warning.startswith(f"--{name} has no effect: ")


@pytest.mark.parametrize(
    ("arguments", "flags"), [(["-f"], {}), (["-fn"], {DRY_RUN: "true"}), (["-nf=false"], {DRY_RUN: "true"})]
)
def test_a_short_flag_of_another_version(arguments: list[str], flags: object) -> None:
    found = parse_arguments(arguments, OPTIONS)
    assert found.flags == flags
    assert [warning.split(":")[0] for warning in found.warnings] == ["-f has no effect"]


def test_the_old_word_for_cleaning() -> None:
    found = parse_arguments(["istio-clean-iptables", "-n"], OPTIONS)
    assert found.flags == {CLEANUP_ONLY: "true", DRY_RUN: "true"}
    assert "--cleanup-only" in found.warnings[0]


def test_upstream_s_flags_ignored_flag_are_none_of_the_table() -> None:
    assert {option.flag for option in OPTIONS} & {option.flag for option in IGNORED_FLAGS} == set()
    assert [option.flag for option, reason in IGNORED_FLAGS.items() if not reason] == [*PERSISTENT_FLAGS]


def test_flags_before_an_error_are_known() -> None:
    found = CommandLine(OPTIONS)
    with pytest.raises(UsageError):
        found.read(["--log_as_json", "-f", "--no-such", "-p", "1"])
    assert found.flags == {LOG_AS_JSON: "true"}
    assert len(found.warnings) == 1


def test_arguments_of_a_newer_mesh_without_a_profile_are_warned_of() -> None:
    for flags in ({LOG_OUTPUT_LEVEL: "default:info"}, {DUAL_STACK: "true"}):
        assert "--profile current has today's layout" in newer_mesh(explicit(flags))
        assert newer_mesh(explicit({**flags, PROFILE: "1.8"})) == ""
    assert newer_mesh(explicit({PROXY_PORT: "15001"})) == ""

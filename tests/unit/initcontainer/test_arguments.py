from __future__ import annotations

import pytest

from capture.settings.options import (
    DRY_RUN,
    DUAL_STACK,
    EXCLUDED_OUTBOUND_NETWORKS,
    INBOUND_PORTS,
    OPTIONS,
    PROXY_PORT,
    PROXY_UID,
)
from initcontainer.arguments import HelpWanted, UsageError, VersionWanted, parse


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
        (["-p", "15001", "--"], {PROXY_PORT: "15001"}),
        (["--envoy-port=a=b"], {PROXY_PORT: "a=b"}),
    ],
)
def test_flags(arguments: list[str], expected: object) -> None:
    assert parse(arguments, OPTIONS) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--no-such"], "unknown flag --no-such"),
        (["-Z"], "unknown flag -Z"),
        (["-nZ"], "unknown flag -Z in -nZ"),
        (["-p"], "-p needs a value"),
        (["--envoy-port"], "--envoy-port needs a value"),
        (["--dry-run", "false"], "unexpected argument 'false'"),
        (["15001"], "unexpected argument '15001'"),
        (["--", "-p"], "unexpected argument '-p'"),
        (["-p", "1", "istio-iptables"], "unexpected argument 'istio-iptables'"),
        ([""], "unexpected argument ''"),
        (["-"], "unexpected argument '-'"),
    ],
)
def test_what_is_no_flag(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(arguments, OPTIONS)

    assert caught.value.message == message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["istio-iptables", "--help"], ["-p", "1", "-h"]])
def test_a_question(arguments: list[str]) -> None:
    with pytest.raises(HelpWanted):
        parse(arguments, OPTIONS)


@pytest.mark.parametrize("arguments", [["--version"], ["version"], ["istio-iptables", "--version"]])
def test_another_question(arguments: list[str]) -> None:
    with pytest.raises(VersionWanted):
        parse(arguments, OPTIONS)


def test_every_flag_of_the_table_is_taken() -> None:
    for option in OPTIONS:
        if option.flag:
            assert parse([f"--{option.flag}=x"], OPTIONS) == {option: "x"}
        if option.short:
            assert parse([f"-{option.short}=x"], OPTIONS) == {option: "x"}

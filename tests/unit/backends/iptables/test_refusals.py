"""What programs print when they fail (iptables 1.8.9, both variants, and older ones), and what we make of it."""

import pytest

from capture.backends.iptables import refusals
from capture.backends.iptables.programs import Finished
from capture.backends.iptables.refusals import program_refusal, unreadable_table
from capture.errors import CaptureError, PrivilegeError, ToolError, UnsupportedError
from capture.model.addresses import IPV4, IPV6

INPUT = """\
*nat
:ISTIO_OUTPUT - [0:0]
-A ISTIO_OUTPUT -p tcp -m owner --uid-owner 1337 -j REDIRECT --to-ports 15001
-A OUTPUT -p tcp -j ISTIO_OUTPUT
COMMIT
"""


@pytest.fixture(autouse=True)
def _privileged(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every user of the tests: without capabilities a table that is missing is one that is not permitted."""
    monkeypatch.setattr(refusals, "missing_capabilities", lambda *_names: ())


def after(complaint: str, *, command: str = "iptables-nft-restore", status: int = 4) -> CaptureError:
    return program_refusal([f"/usr/sbin/{command}", "--noflush"], Finished(status, "", complaint), INPUT, IPV4)


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("iptables-nft-restore", "Could not fetch rule set generation id: Permission denied (you must be root)"),
        (
            "ip6tables-legacy-save",
            "ip6tables-save v1.8.9 (legacy): Cannot initialize: Permission denied (you must be root)",
        ),
        ("iptables-legacy-restore", "can't initialize iptables table `nat': Permission denied (you must be root)"),
        ("python-iptables: change the tables", "IPTCError: can't initialize nat: b'Operation not permitted'"),
    ],
)
def test_a_missing_capability_is_named(command: str, complaint: str) -> None:
    error = after(complaint, command=command)

    assert isinstance(error, PrivilegeError)
    assert "the tables of IPv4" in error.message


@pytest.mark.parametrize(
    "complaint",
    [
        "Another app is currently holding the xtables lock. Stopped waiting after 10s.",
        "Can't lock /proc/self/ns/net: Resource temporarily unavailable",
        "Fatal: can't open lock file /run/xtables.lock: Permission denied",
    ],
)
def test_a_lock_that_stays_held_is_worth_another_try(complaint: str) -> None:
    error = after(complaint, command="iptables-legacy-restore")

    assert isinstance(error, ToolError)
    assert "Try again" in error.remedy
    assert "kernel" not in str(error)


@pytest.mark.parametrize(
    ("complaint", "needed"),
    [
        ("iptables-nft-restore v1.8.9 (nf_tables): Failed to initialize nft: Protocol not supported", "nf_tables"),
        ("iptables-nft-restore: Could not fetch rule set generation id: Invalid argument", "nf_tables"),
        ("line 1: TABLE_ADD failed (Operation not supported): table nat", "nft_chain_nat"),
        (
            "line 3: RULE_APPEND failed (No such file or directory): rule in chain ISTIO_OUTPUT",
            "xt_owner or xt_REDIRECT",
        ),
        ("line 3: RULE_APPEND failed (Operation not supported): rule in chain ISTIO_OUTPUT", "nft_compat"),
        ("Warning: Extension owner revision 0 not supported, missing kernel module?", "xt_owner"),
        (
            'Warning: Extension REDIRECT revision 0 not supported, missing kernel module?\nunknown option "--to"\n',
            "xt_REDIRECT",
        ),
        ("line 5: CHAIN_ADD failed (No such file or directory): chain OUTPUT", "modprobe nft_chain_nat"),
        ("Couldn't load match `owner':No such file or directory\n\nError occurred at line: 3\n", "package iptables"),
        ('unknown option "--to-ports"\nError occurred at line: 3\n', "package iptables"),
    ],
)
def test_complaints_of_iptables_nft_name_what_is_missing(complaint: str, needed: str) -> None:
    error = after(complaint)

    assert isinstance(error, UnsupportedError)
    assert needed in str(error)
    assert complaint.strip() in error.message


@pytest.mark.parametrize(
    ("complaint", "needed"),
    [
        ("iptables-restore: unable to initialize table 'nat'\nError occurred at line: 1\n", "iptable_nat"),
        ("can't initialize iptables table `nat': Table does not exist (do you need to insmod?)", "iptable_nat"),
        ("iptables-restore: line 5 failed: No chain/target/match by that name.", "xt_owner or xt_REDIRECT"),
    ],
)
def test_complaints_of_iptables_legacy_name_what_is_missing(complaint: str, needed: str) -> None:
    error = after(complaint, command="iptables-legacy-restore")

    assert isinstance(error, UnsupportedError)
    assert needed in error.remedy


def test_the_tables_of_ipv6_are_modules_of_their_own() -> None:
    complaint = "ip6tables-restore: unable to initialize table 'nat'"
    error = program_refusal(["/sbin/ip6tables-legacy-restore"], Finished(2, "", complaint), INPUT, IPV6)

    assert "ip6table_nat" in error.remedy
    assert "IPv6" in error.message


def test_anything_else_shows_the_line_and_the_words() -> None:
    error = after("line 4: RULE_APPEND failed (Invalid argument): rule in chain OUTPUT")

    assert isinstance(error, ToolError)
    assert error.status == 4
    assert "Invalid argument" in error.message
    assert "-A OUTPUT -p tcp -j ISTIO_OUTPUT" in error.message


@pytest.mark.parametrize(
    "complaint", ["iptables-restore: line 5 failed", "line 99 failed", "line x failed", "", "it burns"]
)
def test_a_complaint_about_none_of_our_lines_shows_none(complaint: str) -> None:
    error = after(complaint, command="iptables-legacy-restore", status=1)

    assert isinstance(error, ToolError)
    assert "it was given" not in error.message


def test_a_crash_of_python_iptables() -> None:
    error = after("python-iptables crashed with signal 11. ", command="python-iptables: read the tables", status=-11)

    assert isinstance(error, ToolError)
    assert "crashed with signal 11" in error.message


def test_rules_that_iptables_cannot_read() -> None:
    error = unreadable_table(IPV6, "raw")

    assert "table raw of IPv6" in error.message
    assert "--backend nftables" in error.remedy

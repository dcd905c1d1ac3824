"""What the namespace plugin does without a kernel: answers, command lines, skip or fail."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_netns import Answer, CommandError, Endpoint, Kind, Outcome, require
from pytest_netns.listener import read_endpoint
from pytest_netns.namespace import gateway_of
from pytest_netns.process import command_line

endpoints = st.builds(Endpoint, st.ip_addresses().map(str), st.integers(0, 65535))


@given(
    st.builds(
        Answer,
        label=st.text(),
        port=st.integers(1, 65535),
        local=endpoints,
        original=st.none() | endpoints,
        peer=endpoints,
    )
)
def test_an_answer_survives_the_wire(answer: Answer) -> None:
    assert Answer.decode(answer.encode()) == answer


@pytest.mark.parametrize(
    ("original", "redirected"),
    [
        (None, False),
        (Endpoint("127.0.0.1", 15001), False),
        (Endpoint("10.0.0.1", 15001), True),
        (Endpoint("127.0.0.1", 80), True),
    ],
)
def test_redirected_means_that_the_destination_was_changed(original: Endpoint | None, redirected: bool) -> None:  # noqa: FBT001  # a column of the table
    local = Endpoint("127.0.0.1", 15001)
    answer = Answer(label="proxy", port=15001, local=local, original=original, peer=Endpoint("10.0.0.2", 40000))

    assert answer.redirected is redirected


def test_an_outcome_without_an_answer_has_no_label() -> None:
    assert Outcome(Kind.REFUSED).label == ""


def test_socket_addresses_of_the_kernel_are_read_in_both_families() -> None:
    ipv4 = struct.pack("=H", socket.AF_INET) + struct.pack("!H", 80) + socket.inet_pton(socket.AF_INET, "10.1.2.3")
    ipv6 = struct.pack("=H", socket.AF_INET6) + struct.pack("!H4x", 443) + socket.inet_pton(socket.AF_INET6, "fd00::1")

    assert read_endpoint(ipv4 + bytes(8), socket.AF_INET) == Endpoint("10.1.2.3", 80)
    assert read_endpoint(ipv6 + bytes(4), socket.AF_INET6) == Endpoint("fd00::1", 443)


def test_an_endpoint_reads_as_one_writes_it() -> None:
    assert str(Endpoint("10.1.2.3", 80)) == "10.1.2.3:80"
    assert str(Endpoint("fd00::1", 80)) == "[fd00::1]:80"


@pytest.mark.parametrize(
    ("address", "gateway"),
    [
        ("10.77.0.2/24", "10.77.0.1/24"),
        ("10.77.0.1/24", "10.77.0.2/24"),
        ("fd77::2/64", "fd77::1/64"),
        ("192.0.2.1/31", "192.0.2.0/31"),
        (None, None),
    ],
)
def test_a_gateway_is_the_first_other_address(address: str | None, gateway: str | None) -> None:
    assert gateway_of(address) == gateway


def test_a_failed_command_says_what_it_printed() -> None:
    message = str(CommandError(2, ["nft", "-f", "-"], "", "syntax error, unexpected junk"))

    assert "nft" in message
    assert "syntax error, unexpected junk" in message


def test_a_command_drops_its_groups_and_keeps_only_the_requested_capability() -> None:
    plain = command_line(["true"], 1337, None, reads_everything=False)
    reader = command_line(["true"], 1337, None, reads_everything=True)

    assert plain[plain.index("--reuid") + 1] == plain[plain.index("--regid") + 1] == "1337"
    assert "--clear-groups" in plain
    assert set(reader) - set(plain) == {"--inh-caps", "--ambient-caps", "+dac_read_search"}


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        command_line(["no-such-program"], None, None, reads_everything=False)


class TestRequire:
    def test_skips_on_a_developers_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CI", raising=False)
        with pytest.raises(pytest.skip.Exception, match="no podman"):
            require(None, "no podman")

    def test_fails_in_ci_unless_the_condition_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "true")
        require("anything true", "never read")
        with pytest.raises(pytest.fail.Exception, match="no podman"):
            require(None, "no podman")

"""What the socket makes of answers that a healthy kernel seldom gives; the other end is one of our sockets."""

import _socket
import errno
import os
from collections.abc import Iterator

import pytest

from capture.errors import CaptureError, KernelError, MissingFeatureError, PrivilegeError
from capture.netlink.attributes import u32
from capture.netlink.messages import NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, Refusal, encode_message
from capture.netlink.sockets import DUMP_ATTEMPTS, RECEIVE_SIZE, NetlinkSocket, refusal_error
from pytest_netns import require

GETRULE, NEWRULE = 34, 32
DONE = u32(0)


class Peer:
    """The kernel's part: answers, written before the requests. The first request has sequence number 1."""

    def __init__(self, socket: _socket.socket) -> None:
        self.socket = socket

    def answer(self, sequence: int, *bodies: bytes, kind: int = NEWRULE, flags: int = 0) -> None:
        self.socket.send(b"".join(encode_message(kind, flags, sequence, body) for body in bodies))

    def done(self, sequence: int, flags: int = 0) -> None:
        self.answer(sequence, DONE, kind=NLMSG_DONE, flags=flags)

    def error(self, sequence: int, number: int) -> None:
        self.answer(sequence, u32(-number % 2**32) + bytes(16), kind=NLMSG_ERROR)


@pytest.fixture
def pair() -> Iterator[tuple[NetlinkSocket, Peer]]:
    own, far_end = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    with NetlinkSocket(own) as netlink:
        yield netlink, Peer(far_end)
    far_end.close()


def test_a_dump_may_take_several_datagrams(pair: tuple[NetlinkSocket, Peer]) -> None:
    netlink, peer = pair
    peer.answer(1, b"one.", b"two.")
    peer.answer(1, b"last")
    peer.done(1)
    assert netlink.dump(GETRULE, b"", "list rules") == [b"one.", b"two.", b"last"]


@pytest.mark.parametrize("interrupted_at", ["object", "end"])
def test_an_interrupted_dump_is_begun_again(pair: tuple[NetlinkSocket, Peer], interrupted_at: str) -> None:
    netlink, peer = pair
    peer.answer(1, b"half", flags=NLM_F_DUMP_INTR if interrupted_at == "object" else 0)
    peer.done(1, flags=NLM_F_DUMP_INTR if interrupted_at == "end" else 0)
    peer.answer(2, b"full")
    peer.done(2)
    assert netlink.dump(GETRULE, b"", "list rules") == [b"full"]


def test_a_dump_that_never_succeeds_ends(pair: tuple[NetlinkSocket, Peer]) -> None:
    netlink, peer = pair
    for sequence in range(1, DUMP_ATTEMPTS + 1):
        peer.done(sequence, flags=NLM_F_DUMP_INTR)
    with pytest.raises(KernelError, match=r"list rules: .*changed during each of 10 readings") as caught:
        netlink.dump(GETRULE, b"", "list rules")
    assert caught.value.errno == errno.EINTR


def test_an_error_in_the_middle_of_a_dump_is_raised(pair: tuple[NetlinkSocket, Peer]) -> None:
    netlink, peer = pair
    peer.answer(1, b"one.")
    peer.error(1, errno.ENOENT)
    with pytest.raises(KernelError, match="list rules: No such file"):
        netlink.dump(GETRULE, b"", "list rules")


def test_a_dump_can_end_in_an_error(pair: tuple[NetlinkSocket, Peer]) -> None:
    netlink, peer = pair
    peer.answer(1, u32(-errno.EBUSY % 2**32), kind=NLMSG_DONE)
    with pytest.raises(KernelError, match="list rules: Device or resource busy"):
        netlink.dump(GETRULE, b"", "list rules")


def test_answers_to_earlier_requests_are_passed_over(pair: tuple[NetlinkSocket, Peer]) -> None:
    netlink, peer = pair
    peer.error(0, errno.EBUSY)
    peer.answer(0, b"old.")
    peer.answer(1, b"new.")
    peer.error(1, 0)
    assert netlink.request(GETRULE, 0, b"", "get a rule") == [b"new."]


def test_no_answer_is_an_error_and_no_wait(pair: tuple[NetlinkSocket, Peer]) -> None:
    netlink, _ = pair
    with pytest.raises(KernelError, match=r"get a rule: .*the kernel gave no answer"):
        netlink.request(GETRULE, 0, b"", "get a rule")


def test_an_answer_that_does_not_fit_is_no_half_answer(pair: tuple[NetlinkSocket, Peer]) -> None:
    require(os.geteuid() == 0, "only root may send so much at once")
    netlink, peer = pair
    peer.socket.setsockopt(_socket.SOL_SOCKET, 32, 4 * RECEIVE_SIZE)  # SO_SNDBUFFORCE
    peer.answer(1, bytes(RECEIVE_SIZE))
    with pytest.raises(KernelError, match=f"an answer of {RECEIVE_SIZE + 16} bytes"):
        netlink.request(GETRULE, 0, b"", "get a rule")


@pytest.mark.parametrize(
    ("number", "error", "text"),
    [
        (errno.EPERM, PrivilegeError, "not permitted to add a rule"),
        (
            errno.EOPNOTSUPP,
            MissingFeatureError,
            "this kernel cannot add a rule (Operation not supported, why, at byte 20 of the message)",
        ),
        (errno.EPROTONOSUPPORT, MissingFeatureError, "this kernel cannot add a rule (Protocol not supported, why"),
        (
            errno.EAFNOSUPPORT,
            MissingFeatureError,
            "this kernel cannot add a rule (Address family not supported by protocol, why",
        ),
        (errno.ENOENT, KernelError, "add a rule: No such file or directory (why, at byte 20 of the message)"),
    ],
)
def test_the_errno_decides_the_error(number: int, error: type[CaptureError], text: str) -> None:
    found = refusal_error("add a rule", Refusal(number, "why", 20))
    assert type(found) is error
    assert str(found).startswith(text)
    assert found.exit_code == (1 if error is KernelError else 3)


def test_a_protocol_that_the_kernel_does_not_have() -> None:
    unused = 31  # the highest protocol number (MAX_LINKS in linux/netlink.h is 32)
    with pytest.raises(MissingFeatureError, match=r"this kernel cannot open a socket \(Protocol not supported\)"):
        NetlinkSocket.open(unused, "open a socket")

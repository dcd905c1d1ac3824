"""The datagram of a batch, from nfnetlink_rcv_batch in net/netfilter/nfnetlink.c."""

import _socket
import errno
from contextlib import closing

import pytest

from capture.errors import KernelError
from capture.netlink.attributes import attribute, decode_fields, u32
from capture.netlink.messages import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    decode_messages,
    encode_message,
)
from capture.netlink.nfnetlink import Change, RulesetChangedError, commit, encode_batch
from capture.netlink.sockets import NetlinkSocket

CHANGES = [
    Change(0, 1, attribute(1, b"t\0"), "create table t", NLM_F_CREATE),
    Change(3, 1, attribute(1, b"t\0"), "create chain c"),
]


def test_a_batch_is_framed_and_only_its_last_change_wants_an_answer() -> None:
    begin, table, chain, end = decode_messages(bytes(encode_batch(CHANGES, 7)[0]))
    assert [message.sequence for message in (begin, table, chain, end)] == [7, 8, 9, 10]
    assert [message.kind for message in (begin, table, chain, end)] == [0x10, 0xA00, 0xA03, 0x11]
    assert begin.body == end.body == bytes((0, 0, 0, 10))
    assert table.body == bytes((1, 0, 0, 0)) + attribute(1, b"t\0")
    assert table.flags == NLM_F_REQUEST | NLM_F_CREATE
    assert chain.flags == NLM_F_REQUEST | NLM_F_ACK


def test_a_batch_can_demand_a_generation() -> None:
    begin, *_ = decode_messages(bytes(encode_batch(CHANGES, 1, generation=258)[0]))
    assert decode_fields(begin.body[4:]) == {1: bytes((0, 0, 1, 2))}


def commit_answered(*answers: tuple[int, int]) -> None:
    """Commit CHANGES (sequence numbers 1 to 4) with (sequence, errno) as the answers."""
    own, peer = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    try:
        for sequence, number in answers:
            peer.send(encode_message(NLMSG_ERROR, 0, sequence, u32(-number % 2**32) + bytes(16)))
        with NetlinkSocket(own) as netlink:
            commit(netlink, CHANGES, task="program the pod")
    finally:
        peer.close()


def test_the_acknowledgement_of_the_last_change_is_success() -> None:
    own, peer = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    with closing(peer), NetlinkSocket(own) as netlink:
        peer.send(encode_message(NLMSG_ERROR, 0, 3, u32(0) + bytes(16)))
        commit(netlink, CHANGES, task="program the pod")
        assert len([*decode_messages(peer.recv(4096))]) == 4


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ([(2, errno.EEXIST), (3, 0)], "^create table t: File exists"),
        ([(2, errno.EEXIST), (3, errno.ENOENT)], "^create table t: File exists"),
        ([(3, errno.ENOENT)], "^create chain c: No such file"),
        ([(1, errno.EBUSY), (3, 0)], "^program the pod: Device or resource busy"),
        ([(4, errno.EINVAL)], "^program the pod: Invalid argument"),
        ([], "^program the pod: .*no answer"),
        ([(2, 0)], "^program the pod: .*no answer"),
        ([(0, errno.EBUSY)], "^program the pod: .*no answer"),
    ],
)
def test_the_first_refusal_names_its_change(answers: list[tuple[int, int]], complaint: str) -> None:
    with pytest.raises(KernelError, match=complaint):
        commit_answered(*answers)


def test_another_generation_has_its_own_error() -> None:
    with pytest.raises(RulesetChangedError, match=r"program the pod: .*another process changed the ruleset"):
        commit_answered((1, errno.ERESTART))


def test_no_changes_need_no_kernel() -> None:
    own, peer = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    with closing(peer), NetlinkSocket(own) as netlink:
        commit(netlink, [])
        peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.recv(1)

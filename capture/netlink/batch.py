"""nfnetlink batches: many changes, one send, one transaction of the kernel. All of them happen, or none.

    BATCH_BEGIN (generation)  change  change  ...  last change (ACK requested)  BATCH_END

The kernel queues an error for each change that it refuses, and an acknowledgement for the last one, before
``send`` returns (nfnetlink_rcv_batch in net/netfilter/nfnetlink.c). The first error is the cause; later ones
tend to follow from it.
"""

from __future__ import annotations

import errno

from capture.errors import CaptureError, KernelError
from capture.model.values import Value
from capture.netlink import nfnetlink
from capture.netlink.messages import NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, Refusal, decode_refusal, encode_message
from capture.netlink.sockets import NO_ANSWER, NetlinkSocket, refusal_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeVar

    T = TypeVar("T")

NFNL_MSG_BATCH_END = 0x11  # linux/netfilter/nfnetlink.h


class Change(Value):
    """One message of a batch: NFT_MSG_NEWRULE and the like, its family and attributes.

    ``task`` describes it for the error if the kernel refuses it: "add rule 3 to chain ISTIO-OUTPUT".
    """

    kind: int
    family: int
    attributes: bytes
    task: str
    flags: int = 0


class RulesetChangedError(KernelError):
    """The batch was made for another generation of the ruleset. Nothing was changed; read again and retry."""

    def __init__(self, task: str) -> None:
        super().__init__(task, errno.ERESTART, "another process changed the ruleset since it was read")


def transact(task: str, read: Callable[[NetlinkSocket], T], changes: Callable[[T], Iterable[Change]]) -> None:
    """Read the ruleset and change it in one transaction; begin again if another program changes it in between.

    Raises as ``commit``; KernelError with EINTR after ``ATTEMPTS`` of those.
    """
    with nfnetlink.open_nfnetlink() as netfilter:
        for _ in range(nfnetlink.ATTEMPTS):
            objects, generation = nfnetlink.read_consistently(netfilter, task, lambda: read(netfilter))
            try:
                return commit(netfilter, changes(objects), generation, task)
            except RulesetChangedError:
                continue
    raise nfnetlink.ruleset_busy(task)


def commit(
    netfilter: NetlinkSocket,
    changes: Iterable[Change],
    generation: int | None = None,
    task: str = "change the ruleset",
) -> None:
    """Apply all changes in one transaction; each is encoded as it comes, since there may be thousands.

    With a generation (``nfnetlink.read_generation``), only if the ruleset is still the one that was read.

    Raises KernelError, PrivilegeError or UnsupportedError with the description of the change that the kernel
    refused, and RulesetChangedError; nothing is changed then.
    """
    first = netfilter.next_sequences(1)
    datagram, descriptions = encode_batch(changes, first, generation)
    if not descriptions:
        return
    netfilter.next_sequences(len(descriptions) + 1)
    netfilter.send(datagram, task)
    acknowledged = False
    for message in netfilter.drain(task):
        if message.kind != NLMSG_ERROR or message.sequence < first:
            continue
        refusal = decode_refusal(message)
        if refusal:
            raise _failure_at(message.sequence - first, refusal, descriptions, task)
        acknowledged = acknowledged or message.sequence == first + len(descriptions)
    if not acknowledged:
        raise refusal_error(task, NO_ANSWER)


def _failure_at(number: int, refusal: Refusal, descriptions: Sequence[str], task: str) -> CaptureError:
    """Return the error for message ``number`` of a batch: 0 is its beginning and means the whole."""
    if 0 < number <= len(descriptions):
        return refusal_error(descriptions[number - 1], refusal)
    if refusal.errno == errno.ERESTART:
        return RulesetChangedError(task)
    return refusal_error(task, refusal)


def encode_batch(
    changes: Iterable[Change], first_sequence: int, generation: int | None = None
) -> tuple[bytearray, list[str]]:
    """Return the datagram (BEGIN with the first sequence number, the changes, END), and what each change does."""
    datagram = bytearray(nfnetlink.begin_batch(first_sequence, generation))
    descriptions: list[str] = []
    last: Change | None = None
    for change in changes:
        if last is not None:
            datagram += _encode_change(last, first_sequence + len(descriptions), NLM_F_REQUEST)
        last = change
        # Of thousands of rules most are for the same chain: one text serves them all.
        is_the_same = bool(descriptions) and descriptions[-1] == change.task
        descriptions.append(descriptions[-1] if is_the_same else change.task)
    if last is not None:
        datagram += _encode_change(last, first_sequence + len(descriptions), NLM_F_REQUEST | NLM_F_ACK)
    end = first_sequence + len(descriptions) + 1
    subsystem = nfnetlink.nfgenmsg(nfnetlink.NFPROTO_UNSPEC, nfnetlink.NFNL_SUBSYS_NFTABLES)
    datagram += encode_message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, end, subsystem)
    return datagram, descriptions


def _encode_change(change: Change, sequence: int, flags: int) -> bytes:
    body = nfnetlink.nfgenmsg(change.family) + change.attributes
    return encode_message(nfnetlink.message_type(change.kind), change.flags | flags, sequence, body)

"""nfnetlink, the netlink protocol of netfilter: its header, reading nf_tables objects, and changing them in batches.

A batch is one send and one transaction of the kernel: all of its changes happen, or none.

    BATCH_BEGIN (generation)  change  change  ...  last change (ACK requested)  BATCH_END

The kernel queues an error for each change that it refuses, and an acknowledgement for the last one, before
``send`` returns (nfnetlink_rcv_batch in net/netfilter/nfnetlink.c). The first error is the cause; later ones
tend to follow from it.
"""

from __future__ import annotations

import errno

from capture.errors import KernelError, MissingFeatureError, UnsupportedError
from capture.model.values import Value
from capture.netlink.attributes import attribute, c_string, decode_fields, decode_number, u8, u16be, u32be
from capture.netlink.messages import NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, decode_refusal, encode_message
from capture.netlink.sockets import NETLINK_NETFILTER, NO_ANSWER, NetlinkSocket, refusal_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    T = TypeVar("T")

# linux/netfilter/nfnetlink.h
NFNL_SUBSYS_NFTABLES = 10
NFNETLINK_V0 = 0
NFGENMSG_SIZE = 4  # struct nfgenmsg

NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11
NFNL_BATCH_GENID = 1
COMPAT_NEVER = 1 << 31

# linux/netfilter/nf_tables_compat.h
NFNL_SUBSYS_NFT_COMPAT = 11
NFNL_MSG_COMPAT_GET = 0
NFTA_COMPAT_NAME, NFTA_COMPAT_REV, NFTA_COMPAT_TYPE = 1, 2, 3
COMPAT_TYPES = {"match": 0, "target": 1}

# linux/netfilter/nf_tables.h
NFT_MSG_GETGEN = 16
NFTA_GEN_ID = 1

# linux/netfilter.h
NFPROTO_UNSPEC = 0

ATTEMPTS = 10
"""Attempts to read or write what another process writes at the same time."""


def open_nfnetlink() -> NetlinkSocket:
    """Open a netfilter socket in the current namespace. Raise UnsupportedError if the kernel has no nfnetlink."""
    return NetlinkSocket.open(NETLINK_NETFILTER, "open a netfilter socket")


def nfgenmsg(family: int, resource: int = 0) -> bytes:
    """Return the header that begins the body of each nfnetlink message (struct nfgenmsg)."""
    return u8(family) + u8(NFNETLINK_V0) + u16be(resource)


def message_type(kind: int) -> int:
    """Return the netlink message type of an nf_tables message: the subsystem in the upper byte."""
    return NFNL_SUBSYS_NFTABLES << 8 | kind


def read_objects(
    netfilter: NetlinkSocket, kind: int, family: int, attributes: bytes, task: str
) -> list[tuple[int, bytes]]:
    """Return (family, attributes) of all objects that an NFT_MSG_GET... requests.

    NFPROTO_UNSPEC requests all families; ``attributes`` narrow it down to a table or a chain.
    Raises KernelError, PrivilegeError or UnsupportedError.
    """
    bodies = netfilter.dump(message_type(kind), nfgenmsg(family) + attributes, task)
    return [(body[0], body[NFGENMSG_SIZE:]) for body in bodies]


def read_generation(netfilter: NetlinkSocket) -> int:
    """Return the number that every committed change of this namespace's ruleset increments.

    If it is the same before and after several reads, they show one state.

    Raise UnsupportedError if the kernel has nfnetlink, but no nf_tables: it then knows no such message (EINVAL).
    """
    task = "read the generation of the nf_tables ruleset"
    try:
        (body,) = netfilter.request(message_type(NFT_MSG_GETGEN), 0, nfgenmsg(NFPROTO_UNSPEC), task)
    except KernelError as error:
        if error.errno != errno.EINVAL:
            raise
        remedy = "Load the module nf_tables, or use the iptables backend in its legacy variant."
        raise MissingFeatureError("this kernel has no nf_tables", remedy) from error
    return decode_number(decode_fields(body[NFGENMSG_SIZE:])[NFTA_GEN_ID])


def read_consistently(netfilter: NetlinkSocket, task: str, read: Callable[[], T]) -> tuple[T, int]:
    """Return what ``read`` returns while no program changes the ruleset, and the generation of that.

    A table that is deleted before its contents are read (ENOENT) means to read again. Raises as ``read``, and
    ``ruleset_busy``.
    """
    for _ in range(ATTEMPTS):
        generation = read_generation(netfilter)
        _wait_for_commits(netfilter, generation, task)
        try:
            objects = read()
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            continue
        _wait_for_commits(netfilter, generation, task)
        if read_generation(netfilter) == generation:
            return objects, generation
    raise ruleset_busy(task)


def begin_batch(sequence: int, generation: int | None) -> bytes:
    """Return the message that begins a batch; the kernel refuses one for another generation of the ruleset."""
    demand = b"" if generation is None else attribute(NFNL_BATCH_GENID, u32be(generation))
    body = nfgenmsg(NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES) + demand
    return encode_message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, sequence, body)


def _wait_for_commits(netfilter: NetlinkSocket, generation: int, task: str) -> None:
    """Wait until changes that the kernel is making are whole, with their number.

    It exchanges the rules shortly before or after the number, and may pause in between (nf_tables_commit in
    nf_tables_api.c). A batch waits for the end of that. This one is for a generation that does not exist, so that it is
    refused then (nf_tables_valid_genid); the next request skips the refusal by its sequence number.
    """
    netfilter.send(begin_batch(netfilter.next_sequences(1), generation ^ COMPAT_NEVER), task)


def ruleset_busy(task: str) -> KernelError:
    """Return the error for a read or a write that failed ``ATTEMPTS`` times."""
    words = f"the ruleset changed during each of {ATTEMPTS} attempts: another process keeps modifying it"
    error = KernelError(task, errno.EINTR, words)
    error.remedy = "Stop it, or wait until it is done: `nft monitor` in this network namespace names it at each change."
    return error


def has_extension(netfilter: NetlinkSocket, family: int, kind: str, name: str, revision: int) -> bool:
    """Return whether nf_tables takes a "match" or "target" of iptables in this revision.

    The kernel loads the module for it, if it may. Raises UnsupportedError if it takes none at all, PrivilegeError and
    KernelError.
    """
    extension = (
        attribute(NFTA_COMPAT_NAME, c_string(name))
        + attribute(NFTA_COMPAT_REV, u32be(revision))
        + attribute(NFTA_COMPAT_TYPE, u32be(COMPAT_TYPES[kind]))
    )
    message = NFNL_SUBSYS_NFT_COMPAT << 8 | NFNL_MSG_COMPAT_GET
    try:
        netfilter.request(message, 0, nfgenmsg(family) + extension, f"request the extension {name} of iptables")
    except UnsupportedError:
        return False
    except KernelError as error:
        if error.errno == errno.EINVAL:  # nfnetlink knows no such subsystem
            raise MissingFeatureError(
                "nf_tables of this kernel takes no matches and targets of iptables",
                "Run `modprobe nft_compat` on the host, or use the backend nftables.",
            ) from error
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


# --- changing ------------------------------------------------------------------------------------


NFNL_MSG_BATCH_END = 0x11  # linux/netfilter/h


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
    with open_nfnetlink() as netfilter:
        for _ in range(ATTEMPTS):
            objects, generation = read_consistently(netfilter, task, lambda: read(netfilter))
            try:
                return commit(netfilter, changes(objects), generation, task)
            except RulesetChangedError:
                continue
    raise ruleset_busy(task)


def commit(
    netfilter: NetlinkSocket,
    changes: Iterable[Change],
    generation: int | None = None,
    task: str = "change the ruleset",
) -> None:
    """Apply all changes in one transaction; each is encoded as it comes, since there may be thousands.

    With a generation (``read_generation``), only if the ruleset is still the one that was read.

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
        number, refusal = message.sequence - first, decode_refusal(message)
        if refusal and 0 < number <= len(descriptions):
            raise refusal_error(descriptions[number - 1], refusal)
        if refusal:  # the beginning, which means the whole
            raise RulesetChangedError(task) if refusal.errno == errno.ERESTART else refusal_error(task, refusal)
        acknowledged = acknowledged or number == len(descriptions)
    if not acknowledged:
        raise refusal_error(task, NO_ANSWER)


def encode_batch(
    changes: Iterable[Change], first_sequence: int, generation: int | None = None
) -> tuple[bytearray, list[str]]:
    """Return the datagram (BEGIN with the first sequence number, the changes, END), and what each change does."""
    datagram = bytearray(begin_batch(first_sequence, generation))
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
    subsystem = nfgenmsg(NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES)
    datagram += encode_message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, end, subsystem)
    return datagram, descriptions


def _encode_change(change: Change, sequence: int, flags: int) -> bytes:
    body = nfgenmsg(change.family) + change.attributes
    return encode_message(message_type(change.kind), change.flags | flags, sequence, body)

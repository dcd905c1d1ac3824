"""Why the kernel refused rules of iptables: which match, target or chain it lacks, and the module that has it.

The kernel itself says only "No such file or directory". Then it is asked about each
extension that the rules need.
"""

from __future__ import annotations

import errno

from capture.backends.iptables.xt_encode import NFTA_MATCH_NAME, NFTA_MATCH_REV
from capture.backends.kernel_modules import module_of
from capture.backends.nf_tables import constants as nf
from capture.errors import KernelError, UnsupportedError
from capture.model.values import Value
from capture.netlink.attributes import decode_elements, decode_fields, decode_number, decode_text
from capture.netlink.nfnetlink import COMPAT_MATCH, COMPAT_TARGET, ask_for_extension

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from capture.errors import CaptureError
    from capture.netlink.batch import Change
    from capture.netlink.sockets import NetlinkSocket

KINDS = {"match": COMPAT_MATCH, "target": COMPAT_TARGET}
"""Names of expressions that carry an extension of x_tables."""

ABSENT = (errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)
"""What the kernel says of an expression, extension, revision or type of chain that it does not have."""
MAX_EXPRESSIONS = 128
"""Of one rule: NFT_RULE_MAXEXPRS in net/netfilter/nf_tables_api.c. All of them together take at most 4 kB (EFBIG)."""


class Extension(Value):
    """A match or target of x_tables in one of its revisions, as a family has it (2 and 10 in linux/netfilter.h)."""

    family: int
    kind: str
    name: str
    revision: int

    def __str__(self) -> str:
        return f"{self.kind} {self.name} (revision {self.revision})"


def explained(netfilter: NetlinkSocket, error: KernelError | UnsupportedError, batch: Sequence[Change]) -> CaptureError:
    """Return an UnsupportedError that names what the kernel lacks for a batch that it refused, or else the error."""
    if isinstance(error, KernelError) and _is_too_large(error, batch):
        return UnsupportedError(
            f"{error.message}: one rule excludes more networks, ports or ids than nf_tables takes in one rule",
            "Exclude fewer of them, or use the backend nftables, which keeps them in a set.",
        )
    if isinstance(error, KernelError) and error.errno not in ABSENT:
        return error
    extensions = list(dict.fromkeys(extension for change in batch for extension in _extensions(change)))
    try:
        missing = [extension for extension in extensions if not has_extension(netfilter, extension)]
    except UnsupportedError as no_compat:
        return no_compat
    if missing:
        modules = dict.fromkeys(module_of(extension.name) for extension in missing)
        return UnsupportedError(
            f"this kernel lacks what rules of iptables need: {', '.join(dict.fromkeys(map(str, missing)))}",
            f"Load on the host: modprobe {' '.join(modules)}. The backend nftables needs none of them.",
        )
    for change in batch:
        if change.kind == nf.NFT_MSG_NEWCHAIN and change.doing in error.message:
            return UnsupportedError(
                f"this kernel cannot {change.doing}",
                "Load on the host: modprobe nft_chain_nat (up to Linux 5.0: nft_chain_nat_ipv4, nft_chain_nat_ipv6).",
            )
    return error


def _is_too_large(error: KernelError, batch: Sequence[Change]) -> bool:
    if error.errno != errno.EINVAL:
        return error.errno == errno.EFBIG
    return any(change.kind == nf.NFT_MSG_NEWRULE and len(_expressions(change)) > MAX_EXPRESSIONS for change in batch)


def has_extension(netfilter: NetlinkSocket, extension: Extension) -> bool:
    """Return whether the kernel has a match or target in this revision; it loads the module for it, if it may.

    Raises UnsupportedError if nf_tables takes no extensions at all, PrivilegeError and KernelError.
    """
    try:
        ask_for_extension(netfilter, extension.family, KINDS[extension.kind], extension.name, extension.revision)
    except UnsupportedError:
        return False
    except KernelError as error:
        if error.errno == errno.EINVAL:  # nfnetlink knows no such subsystem
            raise UnsupportedError(
                "nf_tables of this kernel takes no matches and targets of iptables",
                "Load on the host: modprobe nft_compat; or use the backend nftables.",
            ) from error
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def _extensions(change: Change) -> Iterator[Extension]:
    """Yield the extensions in the rule that a change makes."""
    if change.kind != nf.NFT_MSG_NEWRULE:
        return
    for expression in map(decode_fields, _expressions(change)):
        kind = decode_text(expression[nf.NFTA_EXPR_NAME])
        if kind in KINDS:
            fields = decode_fields(expression[nf.NFTA_EXPR_DATA])
            name, revision = decode_text(fields[NFTA_MATCH_NAME]), decode_number(fields[NFTA_MATCH_REV])
            yield Extension(change.family, kind, name, revision)


def _expressions(change: Change) -> list[bytes]:
    return decode_elements(decode_fields(change.attributes)[nf.NFTA_RULE_EXPRESSIONS])

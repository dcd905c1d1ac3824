"""Why iptables-save, -restore or the kernel refused, as an error that names what is missing and what to do.

The programs print little, and different words for the same cause; what is understood here:

    not permitted                PrivilegeError
    a lock that stays held       ToolError, worth another try
    no such extension library    UnsupportedError, the package
    no such table in the kernel  UnsupportedError, the module; nor such a type of chain
    no such match or target      UnsupportedError, the feature and its module
    anything else                ToolError, with the line that was refused

Our own messages get only "No such file or directory" from the kernel. Then we query each extension that the
rules need.
"""

from __future__ import annotations

import errno

from capture.backends.iptables import xt_layouts
from capture.backends.iptables.parse import split_words
from capture.backends.needed_modules import extension_module
from capture.backends.nf_tables import constants as nf
from capture.errors import CaptureError, KernelError, MissingFeatureError, PrivilegeError, ToolError, UnsupportedError
from capture.model.addresses import FAMILY_NAMES, IPV4, Family
from capture.netlink.attributes import decode_elements, decode_fields, decode_number, decode_text
from capture.netlink.nfnetlink import COMPAT_TYPES, has_extension, open_nfnetlink
from capture.system.capabilities import missing_capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from capture.backends.iptables.programs import Finished
    from capture.netlink.nfnetlink import Change

CAUSES = {
    "privilege": ("you must be root", "Operation not permitted"),
    "lock": ("xtables lock", "Can't lock", "can't open lock file"),
    "no nf_tables": ("Failed to initialize nft", "Could not fetch rule set generation id"),
    "no table": ("unable to initialize table", "can't initialize ip", "TABLE_ADD failed", "do you need to insmod"),
    "no nat chain": ("CHAIN_ADD failed (No such file or directory)",),  # only their type is a module of its own
    "no library": (
        *("Couldn't load match", "Couldn't load target", "can't find match", "can't find target", "unknown option"),
    ),
    # ENOENT, EOPNOTSUPP and EPROTONOSUPPORT, when the kernel has no such extension
    "absent": (
        *("No such file or directory", "No chain/target/match by that name", "Operation not supported"),
        "Protocol not supported",
    ),
    "older revision": ("missing kernel module",),  # as above; then the program tries its oldest, with fewer options
}
"""What the programs print, by its cause."""


def program_refusal(command: Sequence[str], done: Finished, text: str, family: Family) -> CaptureError:
    """Return the error for a program that failed on ``text``, its standard input."""
    complaint = done.stderr or done.stdout
    name = command[0].rpartition("/")[2]
    causes = {cause for cause, phrases in CAUSES.items() if any(phrase in complaint for phrase in phrases)}
    if "lock" in causes:
        return ToolError(
            " ".join(command),
            done.status,
            complaint,
            "Another program holds the lock of iptables, and nothing was changed. Try again; if it stays so,"
            " `fuser -v /run/xtables.lock` names the holder.",
        )
    # Programs do not report that this thread may not use x_tables.
    if "privilege" in causes or ("no table" in causes and missing_capabilities("NET_ADMIN", "NET_RAW")):
        return PrivilegeError(
            f"{'read' if name.endswith('save') else 'change'} the tables of {FAMILY_NAMES[family]} with {name}"
        )
    if "no nf_tables" in causes:
        return _missing_feature(f"nf_tables, which {name} needs", "nf_tables", complaint)
    if "no table" in causes:
        return _no_table_error(name, complaint, text, family)
    if "no nat chain" in causes:
        return _missing_feature(f"nat chains of {FAMILY_NAMES[family]} for {name}", "nft_chain_nat", complaint)
    line = _refused_line(complaint, text)
    if "no library" in causes and "older revision" not in causes:
        return _no_library(name, complaint, line)
    if causes & {"absent", "older revision"}:
        return _no_extension_error(name, complaint, line or text)
    words = f"{complaint.strip()}\n  it was given: {line}" if line else complaint
    return ToolError(" ".join(command), done.status, words)


def gives_no_reason(complaint: str) -> bool:
    """Return whether a program names a line and no reason, as in "iptables-restore: line 14 failed".

    iptables-legacy ends so when a module fails to load another one.
    """
    words = complaint.strip()
    return ": line " in words and words.endswith(" failed") and "\n" not in words


def unreadable_table(family: Family, table: str) -> UnsupportedError:
    """Return the error for a table of nf_tables whose rules iptables cannot show."""
    return UnsupportedError(
        f"the table {table} of {FAMILY_NAMES[family]} holds rules that nft wrote and iptables cannot read",
        "Use nftables in this namespace (--backend nftables), or remove those rules: `nft list ruleset` shows them.",
    )


def _missing_feature(feature: str, module: str, complaint: str) -> UnsupportedError:
    return MissingFeatureError(
        f"this kernel has no {feature}: {complaint.strip()}",
        f"Load the module {module} on the host (`modprobe {module}`), or choose another backend or variant"
        " (--backend, --force-iptables-binary); `capture doctor` says which there are.",
    )


def _no_table_error(name: str, complaint: str, text: str, family: Family) -> UnsupportedError:
    tables = [line[1:] for line in text.splitlines() if line.startswith("*")]
    named = (table for table in tables if f"{table}'" in complaint or f"table {table}" in complaint)
    table = next(named, "".join(tables[:1]))
    if "-nft-" in name:
        module = "nft_chain_nat" if table == "nat" else "nf_tables"
    else:
        module = f"{'iptable' if family == IPV4 else 'ip6table'}_{table}"
    return _missing_feature(f"table {table} of {FAMILY_NAMES[family]} for {name}", module, complaint)


def _no_library(name: str, complaint: str, line: str) -> CaptureError:
    of_line = ", ".join(dict.fromkeys(_extensions_in(line))) or "one of its extensions"
    return UnsupportedError(
        f"{name} lacks a library of the extensions that the rules need ({of_line}): {complaint.strip()}",
        "Install the package iptables completely: its extensions are in /usr/lib/*/xtables, or where XTABLES_LIBDIR"
        " points.",
    )


def _no_extension_error(name: str, complaint: str, lines: str) -> CaptureError:
    extensions = dict.fromkeys(name for line in lines.splitlines() for name in _extensions_in(line))
    needed = " or ".join(dict.fromkeys(map(extension_module, extensions)))
    if "-nft-" in name:
        needed = f"{needed} or nft_compat" if needed else "nft_compat"
    return MissingFeatureError(
        f"this kernel lacks a match or target that the rules of {name} need ({', '.join(extensions) or 'a chain'}):"
        f" {complaint.strip()}",
        f"Load the module on the host: {needed}. The backend nftables needs none of them (--backend nftables).",
    )


def _refused_line(complaint: str, text: str) -> str:
    """Return the line of the input that the program names, unless that is the end of a table."""
    for phrase in ("line: ", "line "):
        number = complaint.partition(phrase)[2].split(" ", 1)[0].split("\n", 1)[0].rstrip(":")
        lines = text.splitlines()
        if number.isdigit() and 0 < int(number) <= len(lines) and lines[int(number) - 1] != "COMMIT":
            return lines[int(number) - 1]
    return ""


def _extensions_in(line: str) -> Iterator[str]:
    words = [word.printed for word in split_words(line)]
    for index, word in enumerate(words[:-1]):
        if word == "-m" or (word == "-j" and words[index + 1] in xt_layouts.WRITTEN):
            yield words[index + 1]


# --- our own messages ----------------------------------------------------------------------------

ABSENT_ERRORS = (errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)
"""The kernel's answer to an expression, extension, revision or type of chain that it does not have."""
MAX_EXPRESSIONS = 128
"""Expressions of a rule (NFT_RULE_MAXEXPRS in net/netfilter/nf_tables_api.c); together 4 kB at most (EFBIG)."""


def kernel_refusal(error: KernelError | UnsupportedError, batch: Sequence[Change]) -> CaptureError:
    """Return an UnsupportedError that names what the kernel lacks for a batch that it refused, or else the error."""
    if isinstance(error, KernelError) and _is_too_large(error, batch):
        return UnsupportedError(
            f"{error.message}: one rule excludes more networks, ports or ids than nf_tables takes in one rule",
            "Exclude fewer of them, or use the backend nftables, which keeps them in a set.",
        )
    if isinstance(error, KernelError) and error.errno not in ABSENT_ERRORS:
        return error
    extensions = dict.fromkeys(extension for change in batch for extension in _requested_extensions(change))
    try:
        with open_nfnetlink() as netfilter:
            lacking = [extension for extension in extensions if not has_extension(netfilter, *extension)]
    except UnsupportedError as no_compat:
        return no_compat
    if lacking:
        shown = dict.fromkeys(f"{kind} {name} (revision {revision})" for _, kind, name, revision in lacking)
        modules = dict.fromkeys(extension_module(name) for _, _, name, _ in lacking)
        return MissingFeatureError(
            f"this kernel lacks what rules of iptables need: {', '.join(shown)}",
            f"Run `modprobe -a {' '.join(modules)}` on the host. The backend nftables needs none of them.",
        )
    for change in batch:
        if change.kind == nf.NFT_MSG_NEWCHAIN and change.task == error.task:
            return MissingFeatureError(
                f"this kernel cannot {change.task}",
                "Run `modprobe nft_chain_nat` on the host (up to Linux 5.0: nft_chain_nat_ipv4, nft_chain_nat_ipv6).",
            )
    return error


def _is_too_large(error: KernelError, batch: Sequence[Change]) -> bool:
    if error.errno != errno.EINVAL:
        return error.errno == errno.EFBIG
    return any(len(_rule_expressions(change)) > MAX_EXPRESSIONS for change in batch)


def _requested_extensions(change: Change) -> Iterator[tuple[int, str, str, int]]:
    """Yield the matches and targets of x_tables in a rule: family, kind, name and revision."""
    for expression in map(decode_fields, _rule_expressions(change)):
        kind = decode_text(expression[nf.NFTA_EXPR_NAME])
        if kind in COMPAT_TYPES:
            fields = decode_fields(expression[nf.NFTA_EXPR_DATA])
            name, revision = decode_text(fields[nf.NFTA_MATCH_NAME]), decode_number(fields[nf.NFTA_MATCH_REV])
            yield change.family, kind, name, revision


def _rule_expressions(change: Change) -> list[bytes]:
    if change.kind != nf.NFT_MSG_NEWRULE:
        return []
    return decode_elements(decode_fields(change.attributes)[nf.NFTA_RULE_EXPRESSIONS])

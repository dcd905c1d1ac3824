"""The work of python-iptables, in a process of its own. Importing this module imports it.

It is used below its own level of rules and chains, because that level

* writes IPv6 interfaces with a mask of 0x01 for each character, so that ``lo`` and ``do`` are the same to it;
* reads every table there is (and so makes it) to learn whether a target is a chain;
* reads each match back and sets it again before writing, which breaks texts with quotes;
* steps over the matches of a rule by the size it expects instead of the size they have.

So this is an iptables-restore of our own. It takes the words of rules apart (``parse``), puts their addresses,
interfaces and protocol into libiptc's own structure, and gives the options of extensions to their parsers one by one.
One table is one transaction: autocommit is off, and ``commit`` is the last that happens to a table.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import fcntl
import glob
import os
import sys
import warnings

from capture.backends.iptables.parse import Flag, clauses_of, parse_options, split_words
from capture.backends.iptables.render import option_text, rule_text
from capture.backends.iptables.tables import NAMESPACE_LOCK
from capture.backends.iptables.xt_text import XT_PROTOCOL_NAMES, network_text, protocol_text
from capture.model.addresses import BITS, IPV4, Family, parse_network
from capture.model.conventions import MAX_INTERFACE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from capture.backends.iptables.plan import TableEdit
    from capture.model.ruleset import Rule

LIBRARIES = {"xtables": "libxtables.so.12", "ip4tc": "libip4tc.so.2", "ip6tc": "libip6tc.so.2", "c": "libc.so.6"}
"""The libraries that python-iptables searches, by the names that iptables 1.8 and glibc have for them."""

EXTENSION_DIRECTORIES = ("/usr/lib/*/xtables", "/usr/lib64/xtables", "/usr/lib/xtables", "/lib/xtables")

# linux/netfilter_ipv4/ip_tables.h and linux/netfilter_ipv6/ip6_tables.h, the same numbers in both
INV_VIA_IN, INV_VIA_OUT, INV_SRCIP, INV_DSTIP, INV_FRAG, INV_PROTO = 0x01, 0x02, 0x08, 0x10, 0x20, 0x40
INVERSION_FLAGS = {"-i": INV_VIA_IN, "-o": INV_VIA_OUT, "-s": INV_SRCIP, "-d": INV_DSTIP}
IPT_F_FRAG, IPT_F_GOTO = 0x01, 0x02
IP6T_F_PROTO, IP6T_F_GOTO = 0x01, 0x04

NUMBERS_OF_PROTOCOLS = {name: number for number, name in XT_PROTOCOL_NAMES.items()}


def _import_iptc() -> tuple[Any, Any]:
    """Return python-iptables, imported without what else that does: 60 processes, distutils, warnings."""
    search = ctypes.util.find_library

    def find_library(name: str) -> str | None:
        if "xtwrapper" in name:
            return None  # it lies next to the package, where it is looked for next
        try:
            ctypes.CDLL(LIBRARIES[name])
        except (KeyError, OSError):
            return search(name)
        return LIBRARIES[name]

    warnings.simplefilter("ignore")
    ctypes.util.find_library = find_library
    sys.modules["distutils"] = None  # type: ignore[assignment]  # None means "not there"; its import then takes another way
    if "XTABLES_LIBDIR" not in os.environ:
        directories = [directory for pattern in EXTENSION_DIRECTORIES for directory in glob.glob(pattern)]
        if directories:
            os.environ["XTABLES_LIBDIR"] = directories[0]
    import iptc
    from iptc import xtables

    return iptc, xtables


iptc, libxtables = _import_iptc()


# An option of an extension since iptables 1.8.10 (struct xt_option_entry in xtables.h): a field more.
_LongerEntry = type("_LongerEntry", (libxtables.xt_option_entry,), {"_fields_": (("base", ctypes.c_uint),)})
SMALLEST_ADDRESS = 4096


def _option_named(_tables: object, entries: Any, name: bytes) -> Any:
    """Return the option with this name, or None: python-iptables itself knows the table of iptables up to 1.8.9 only.

    Both versions call themselves libxtables.so.12. What follows the older entry in memory is the address of the next
    name; in the newer one it is ``base``, a small number, and padding.
    """
    entry_type = libxtables.xt_option_entry
    address = ctypes.cast(entries, ctypes.c_void_p).value or 0
    follows = ctypes.c_void_p.from_address(address + ctypes.sizeof(entry_type)).value or 0
    stride = ctypes.sizeof(entry_type if follows >= SMALLEST_ADDRESS else _LongerEntry)
    while (entry := entry_type.from_address(address)).name:
        if entry.name == name:
            return entry
        address += stride
    return None


libxtables.xtables._option_lookup = _option_named  # noqa: SLF001  # it is the only place where entries are counted


def _open(family: Family, name: str) -> Any:
    """Open a table, which makes it if need be, and no other."""
    table = iptc.Table if family == IPV4 else iptc.Table6
    table.existing_table_names = {other: other == name for other in table.ALL}
    return table(name, autocommit=False)


def apply_edits(edits: Iterable[TableEdit]) -> None:
    """Do what iptables-restore --noflush would do with ``restore_text`` of these edits: each in one transaction."""
    with open(NAMESPACE_LOCK, "rb") as lock:  # python-iptables takes none; the driver ``restore`` takes this one
        fcntl.flock(lock, fcntl.LOCK_EX)
        for edit in edits:
            table = _open(edit.family, edit.table)
            for chain in (*edit.rewritten_chains, *edit.dropped_chains):
                make_empty = table.flush_entries if table.is_chain(chain) else table.create_chain
                make_empty(chain)
            for chain, rules in edit.rewritten_chains.items():
                for rule in rules:
                    table.append_entry(chain, _packed_entry(edit.family, rule))
            for chain, position in edit.removals:
                _remove(table, chain, position)
            for chain, index, rule in edit.insertions:
                if index is None:
                    table.append_entry(chain, _packed_entry(edit.family, rule))
                else:
                    table.insert_entry(chain, _packed_entry(edit.family, rule), index)
            for chain in edit.dropped_chains:
                table.delete_chain(chain)
            table.commit()


def _remove(table: Any, chain: str, position: int) -> None:
    """Remove a rule by its position; python-iptables itself removes by likeness, and misses what it read."""
    if table._iptc.iptc_delete_num_entry(chain.encode(), position, table._handle) != 1:  # noqa: SLF001  # no public function does it
        raise iptc.IPTCError(f"can't delete rule {position + 1} of chain {chain}: {table.strerror().decode()}")


def _packed_entry(family: Family, rule: Rule) -> Any:
    """Return a rule as libiptc takes it (struct ipt_entry or ip6t_entry, its matches, its target)."""
    entry = iptc.Rule() if family == IPV4 else iptc.Rule6()
    target = None
    for clause in clauses_of(split_words(rule_text(rule))):
        if clause[0].text == "-m":
            _set_options(entry.create_match(clause[1].text), parse_options(clause[2:]))
        elif clause[0].text == "-j":
            target = entry.create_target(clause[1].text)
            _set_options(target, parse_options(clause[2:]))
        else:
            negated = clause[0].text == "!"
            _set_own_option(entry.get_ip(), family, *(word.text for word in clause[negated:]), negated=negated)
    if target is None:
        entry.create_target("")  # the rule only counts
    return entry.rule


def _set_options(extension: Any, options: Sequence[Flag]) -> None:
    """Hand options to the parser of a match or target, as the command line would."""
    for flag in options:
        words = [flag.name.removeprefix("--").encode(), " ".join(flag.values).encode("utf-8", "surrogateescape")]
        argv = (ctypes.c_char_p * len(words))(*words)
        negation = ctypes.c_int(flag.negated)
        extension._parse(argv, negation, ctypes.pointer(extension.rule.entry))  # noqa: SLF001  # the public one reads "!" in texts
    extension._final_check()  # noqa: SLF001  # the public one reads the options back and sets them again


def _set_own_option(header: Any, family: Family, name: str, value: str, *, negated: bool) -> None:
    """Write an address, interface or protocol into struct ipt_ip or ip6t_ip6."""
    if name == "-p":
        header.proto = NUMBERS_OF_PROTOCOLS[value]
        header.flags |= 0 if family == IPV4 else IP6T_F_PROTO
        return
    header.invflags |= INVERSION_FLAGS[name] * negated
    if name == "-i":
        header.iniface, header.iniface_mask = _packed_interface(value)
    elif name == "-o":
        header.outiface, header.outiface_mask = _packed_interface(value)
    else:
        network = parse_network(value)
        bits = BITS[network.family]
        mask = ((1 << network.prefix) - 1) << (bits - network.prefix)
        address_field, mask_field = (header.src, header.smsk) if name == "-s" else (header.dst, header.dmsk)
        ctypes.memmove(ctypes.byref(address_field), network.packed, bits // 8)
        ctypes.memmove(ctypes.byref(mask_field), mask.to_bytes(bits // 8, "big"), bits // 8)


def _packed_interface(name: str) -> tuple[bytes, bytes]:
    """Return name and mask, which covers the letters before a trailing ``+``, else all letters and the end."""
    letters = name.encode("utf-8", "surrogateescape")
    if len(letters) > MAX_INTERFACE_BYTES:
        raise ValueError(f"an interface name has at most {MAX_INTERFACE_BYTES} bytes: {name!r}")
    if letters.endswith(b"+"):
        return letters, b"\xff" * (len(letters) - 1)
    return letters, b"\xff" * (len(letters) + 1)


def save_tables(family: Family, names: Sequence[str]) -> str:
    """Return tables in the format of ``iptables-save -c``. stdout must lead into a file: extensions print there."""
    extensions = libxtables.xtables(libxtables.NFPROTO_IPV4 if family == IPV4 else libxtables.NFPROTO_IPV6)
    lines = [line for name in names for line in _table_lines(_open(family, name), family, extensions)]
    return "".join(f"{line}\n" for line in lines)


def _table_lines(table: Any, family: Family, extensions: Any) -> Iterator[str]:
    chains = [chain.name for chain in table.chains]
    yield f"*{table.name}"
    for chain in chains:
        policy, counters = table.get_policy(chain)
        yield f":{chain} {policy.name} [{counters[0]}:{counters[1]}]" if policy else f":{chain} - [0:0]"
    for chain in chains:
        entry = table.first_rule(chain)
        while entry:
            counted = f"[{entry.counters.pcnt}:{entry.counters.bcnt}]"
            yield " ".join([counted, "-A", chain, *_rule_words(table, entry, family, extensions)])
            entry = table.next_rule(entry)
    yield "COMMIT"


def _rule_words(table: Any, entry: Any, family: Family, extensions: Any) -> Iterator[str]:
    header = entry.ip if family == IPV4 else entry.ipv6
    yield from _header_words(header, family)
    offset = ctypes.sizeof(entry)
    while offset < entry.target_offset:
        match = ctypes.cast(ctypes.byref(entry, offset), ctypes.POINTER(libxtables.xt_entry_match))
        yield "-m " + _printed_extension(extensions, extensions.find_match, match, header)
        offset += match[0].u.match_size
    target = ctypes.cast(ctypes.byref(entry, entry.target_offset), ctypes.POINTER(libxtables.xt_entry_target))
    goto = header.flags & (IPT_F_GOTO if family == IPV4 else IP6T_F_GOTO)
    standard = table.get_target(entry)
    if standard and target[0].u.user.name in (b"", b"standard"):
        yield f"{'-g' if goto else '-j'} {standard.decode()}"
    elif target[0].u.user.name not in (b"", b"standard"):
        yield "-j " + _printed_extension(extensions, extensions.find_target, target, header)


def _printed_extension(extensions: Any, find: Callable[[bytes], Any], extension: Any, header: Any) -> str:
    """Return the name and the options of a match or target; the name alone without a library for its revision."""
    name: bytes = extension[0].u.user.name
    module = find(name)
    if not module or module[0].revision != extension[0].u.user.revision or not module[0].save:
        return name.decode()
    alias = getattr(module[0], "alias", None)
    shown: bytes = alias(extension) if alias else name
    start = os.lseek(1, 0, os.SEEK_CUR)
    extensions.save(module[0], header, extension)
    saved = os.pread(1, os.lseek(1, 0, os.SEEK_CUR) - start, start).decode("utf-8", "surrogateescape")
    return f"{shown.decode()} {' '.join(saved.split(chr(10))).strip()}".strip()


def _header_words(header: Any, family: Family) -> Iterator[str]:
    fields = ((header.src, header.smsk, "-s", INV_SRCIP), (header.dst, header.dmsk, "-d", INV_DSTIP))
    for field, mask_field, name, flag in fields:
        address, mask = (int.from_bytes(bytes(each), "big") for each in (field, mask_field))
        if header.invflags & flag or mask:
            yield network_text(name, family, address, mask, negated=header.invflags & flag)
    interfaces = (("iniface", "-i", INV_VIA_IN), ("outiface", "-o", INV_VIA_OUT))
    for field, name, flag in interfaces:
        interface = _interface_name(getattr(header, field), getattr(header, f"{field}_mask"))
        if interface:
            yield f"{option_text(header.invflags & flag, name)} {interface}"
    if header.proto:
        yield protocol_text(header.proto, negated=header.invflags & INV_PROTO)
    if family == IPV4 and header.flags & IPT_F_FRAG:
        yield option_text(header.invflags & INV_FRAG, "-f")


def _interface_name(name: bytes, mask: bytes) -> str:
    """Return the name as far as the mask covers it, then ``+``; or all of it if the mask covers its end."""
    if not mask:
        return ""
    if len(mask) > len(name):
        return name.decode("utf-8", "surrogateescape")
    return name[: len(mask)].decode("utf-8", "surrogateescape") + "+"

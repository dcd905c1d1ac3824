"""Kernel modules: what needs which, what is there, and what the error says when one is missing."""

import errno
import itertools
import os
import types
from collections.abc import Iterable
from pathlib import Path

import pytest

from capture.backends import missing_modules
from capture.backends.iptables.restore import RestoreDriver
from capture.backends.iptables.xt_layouts import WRITTEN
from capture.backends.missing_modules import with_missing_modules
from capture.backends.needed_modules import FLAVOUR_NAMES, MODULES_BY_KIND, REQUIRES, extension_module, needed_modules
from capture.errors import CaptureError, KernelError, MissingFeatureError, ToolError, UnsupportedError
from capture.model import ruleset
from capture.model.addresses import FAMILIES
from capture.settings import options as option
from capture.system import kernel_modules
from capture.system.kernel_modules import ModuleInventory, look_up_modules
from support.captures.fake_pod import Texts, ruleset_of
from support.rules.vocabulary import kinds_of

DNS: Texts = {option.REDIRECT_DNS: "true", option.CAPTURE_ALL_DNS: "true"}
CONFIGURATIONS: dict[str, Texts] = {
    "default": {},
    "dns": DNS,
    "tproxy": {option.INTERCEPTION_MODE: "TPROXY"},
    "very many ports": {option.EXCLUDED_OUTBOUND_PORTS: ",".join(map(str, range(20001, 20601, 2)))},
    "everything": {
        **DNS,
        option.INTERCEPTION_MODE: "TPROXY",
        option.DROP_INVALID: "true",
        option.RULE_LOGS: "true",
        option.RULE_COMMENTS: "true",
        option.EXCLUDED_INTERFACES: "eth9",
        option.EXCLUDED_OUTBOUND_PORTS: "1-9,25",
    },
}
WITHOUT_MODULES = {"Protocol", "Source", "Destination", "InInterface", "OutInterface", "UnknownMatch"} | {
    *("Jump", "Return", "Accept", "Drop", "Continue", "UnknownVerdict")
}
"""What x_tables and nf_tables do themselves, and what other programs requested."""


def extensions_in(text: str) -> Iterable[str]:
    """Yield the matches and targets that iptables gets, and the tables."""
    for line in text.splitlines():
        words = line.split()
        for word, after in itertools.pairwise(words):
            if word == "-m" or (word == "-j" and after in WRITTEN):
                yield after


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_iptables_needs_the_extensions_that_are_rendered(configuration: str) -> None:
    desired = ruleset_of(CONFIGURATIONS[configuration])
    texts = [text for _, text in RestoreDriver("nft").render(desired)]
    used = {extension_module(name) for text in texts for name in extensions_in(text)}

    assert {name for name in needed_modules(desired, FAMILIES, "legacy") if name.startswith("xt_")} == used
    assert {name for name in needed_modules(desired, FAMILIES, "nft") if name.startswith("xt_")} == used - {"xt_tcpudp"}
    tables = {table.name for table in desired.tables}
    expected = {f"{prefix}_{table}" for prefix in ("iptable", "ip6table") for table in tables}
    assert {name for name in needed_modules(desired, FAMILIES, "legacy") if "table_" in name} == expected


def test_without_a_rule_set_the_modules_of_the_default_are_needed() -> None:
    for flavour in FLAVOUR_NAMES:
        assert needed_modules(None, FAMILIES, flavour) == needed_modules(ruleset_of({}), FAMILIES, flavour)


def test_a_family_that_is_left_out_needs_nothing() -> None:
    assert not [name for name in needed_modules(ruleset_of({}), ("ipv4",), "legacy") if name.startswith("ip6")]


def test_no_match_and_no_verdict_is_forgotten() -> None:
    named = {kind.__name__ for kind in MODULES_BY_KIND}
    every = {kind.__name__ for kind in kinds_of(ruleset.Match) | kinds_of(ruleset.Verdict)}
    assert every == named | WITHOUT_MODULES


def test_requirements_are_known_themselves() -> None:
    leaves = {"nfnetlink", "x_tables", "nf_log_syslog"} | {
        *("nf_defrag_ipv4", "nf_defrag_ipv6", "nf_tproxy_ipv4", "nf_tproxy_ipv6")
    }
    assert {name for needs in REQUIRES.values() for name in needs} <= {*REQUIRES, *leaves}


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel with no modules; loaded ones go to ``loaded``, the index to ``index``."""
    (tmp_path / "loaded").mkdir()
    index = tmp_path / "indexes" / os.uname().release
    index.mkdir(parents=True)
    (tmp_path / "index").symlink_to(index)
    monkeypatch.setattr(kernel_modules, "LOADED_MODULES", str(tmp_path / "loaded"))
    monkeypatch.setattr(kernel_modules, "MODULE_INDEXES", str(tmp_path / "indexes"))
    (tmp_path / "modprobe.d").mkdir()
    monkeypatch.setattr(
        kernel_modules, "MODPROBE_DIRECTORIES", (str(tmp_path / "missing"), str(tmp_path / "modprobe.d"))
    )
    (tmp_path / "ipv6").mkdir()
    for module in (kernel_modules, missing_modules):
        monkeypatch.setattr(module, "has_ipv6", (tmp_path / "ipv6").exists)
    monkeypatch.setattr(kernel_modules, "LOADING_DISABLED", str(tmp_path / "modules_disabled"))
    return tmp_path


def offer(kernel: Path, *loadable: str, builtin: Iterable[str] = (), ending: str = "ko") -> None:
    lines = [f"kernel/net/netfilter/{name}.{ending}: kernel/lib/libcrc32c.ko\n" for name in loadable]
    (kernel / "index" / "modules.dep").write_text("".join(lines))
    (kernel / "index" / "modules.builtin").write_text("".join(f"kernel/net/{name}.ko\n" for name in builtin))


@pytest.mark.parametrize("ending", ["ko", "ko.xz", "ko.zst", "ko.gz"])
def test_a_module_neither_loaded_nor_listed_is_absent(kernel: Path, ending: str) -> None:
    (kernel / "loaded" / "nf_tables").mkdir()
    offer(kernel, "nft_redir", builtin=["nf_nat"], ending=ending)

    found = look_up_modules(("nf_tables", "nft_redir", "nf_nat", "nft_ct"))

    assert found == ModuleInventory(unloaded=("nft_redir", "nft_ct"), absent=("nft_ct",), is_indexed=True)


def test_without_an_index_nothing_is_known_to_be_absent(kernel: Path) -> None:
    (kernel / "loaded" / "nf_tables").mkdir()
    assert look_up_modules(("nf_tables", "nft_redir")) == ModuleInventory(unloaded=("nft_redir",))
    (kernel / "index" / "modules.dep").write_text("")
    assert not look_up_modules(("nft_redir",)).is_indexed, "half an index is none"


def test_a_kernel_without_ipv6_need_not_have_its_modules(kernel: Path) -> None:
    offer(kernel)
    assert look_up_modules(("nf_defrag_ipv6", "nf_nat")).absent == ("nf_defrag_ipv6", "nf_nat")
    (kernel / "ipv6").rmdir()
    assert look_up_modules(("nf_defrag_ipv6", "nf_nat")).absent == ("nf_nat",)


def boot(kernel: Path, monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    """Have a kernel of another release, with an index that lists nothing."""
    (kernel / "indexes" / release).mkdir(exist_ok=True)
    for name in ("modules.dep", "modules.builtin"):
        (kernel / "indexes" / release / name).write_text("")
    monkeypatch.setattr(os, "uname", lambda: types.SimpleNamespace(release=release))


@pytest.mark.parametrize("release", ["6.1.0-56-cloud-amd64", "5.2", "5.2-rc1", "5.10.0"])
def test_names_of_newer_kernels_are_known(kernel: Path, monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    boot(kernel, monkeypatch, release)
    assert look_up_modules(("nft_redir",)).absent == ("nft_redir",)


@pytest.mark.parametrize("release", ["5.1.21", "4.18.0-513.el8.x86_64", "nonsense", ""])
def test_older_kernels_have_other_names(kernel: Path, monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    boot(kernel, monkeypatch, release)
    assert not look_up_modules(("nft_redir",)).is_indexed


@pytest.mark.parametrize(("release", "absent"), [("5.12.9", ()), ("5.13.0", ("nf_log_syslog",))])
def test_a_module_is_not_missed_before_there_was_one(
    kernel: Path, monkeypatch: pytest.MonkeyPatch, release: str, absent: tuple[str, ...]
) -> None:
    boot(kernel, monkeypatch, release)
    assert look_up_modules(("nf_log_syslog",)).absent == absent


REFUSED = KernelError("add rule 1 to chain c", errno.ENOENT)
DEFAULT = ruleset_of({})


def output(error: CaptureError) -> str:
    return str(with_missing_modules(error, DEFAULT, "nftables"))


def test_an_absent_module_is_named_with_what_needs_it(kernel: Path) -> None:
    offer(kernel, *(name for name in needed_modules(DEFAULT, FAMILIES, "nftables") if name != "nft_redir"))
    error = with_missing_modules(REFUSED, DEFAULT, "nftables")
    assert isinstance(error, UnsupportedError)
    assert error.message == "this kernel has no module nft_redir (for REDIRECT), which nftables needs"
    assert f"linux-modules-extra-{os.uname().release}" in error.remedy


def test_a_module_that_could_not_be_loaded_is_named(kernel: Path) -> None:
    offer(kernel, *needed_modules(DEFAULT, FAMILIES, "nftables"))
    for name in needed_modules(DEFAULT, FAMILIES, "nftables"):
        if name != "nft_redir":
            (kernel / "loaded" / name).mkdir()
    assert "these modules are not loaded, though this kernel has them: nft_redir" in output(REFUSED)
    assert "modprobe -a nft_redir" in output(REFUSED)


@pytest.mark.parametrize(
    "line", ["install nft-redir /bin/false", "blacklist nft_redir", "install nft_redir /bin/true #"]
)
def test_a_module_that_modprobe_may_not_load_is_named_with_the_file_that_says_so(kernel: Path, line: str) -> None:
    offer(kernel, *needed_modules(DEFAULT, FAMILIES, "nftables"))
    hardened = kernel / "modprobe.d" / "hardened.conf"
    hardened.write_text(f"# nothing\n\ninstall nft_ct /sbin/modprobe nft_ct\n{line}\n")
    error = with_missing_modules(REFUSED, DEFAULT, "nftables")
    assert (
        error.message
        == "loading module nft_redir (for REDIRECT) is forbidden by modprobe's configuration; nftables needs it"
    )
    assert error.remedy == f"{hardened} on the host forbids nft_redir: take that line out."


def test_a_needed_module_is_loaded_though_it_is_blacklisted(kernel: Path) -> None:
    offer(kernel, "nf_nat")
    (kernel / "modprobe.d" / "a.conf").write_text("blacklist nf_nat\n")
    assert look_up_modules(("nf_nat",)) == ModuleInventory(unloaded=("nf_nat",), is_indexed=True)
    (kernel / "modprobe.d" / "b.conf").write_text("install nf_nat /bin/false\n")
    assert look_up_modules(("nf_nat",)).lacking == ("nf_nat",)


def test_a_kernel_that_loads_no_more_modules_is_named(kernel: Path) -> None:
    offer(kernel, *needed_modules(DEFAULT, FAMILIES, "nftables"))
    (kernel / "modules_disabled").write_text("1\n")
    assert "kernel.modules_disabled=1" in output(REFUSED)
    assert "/etc/modules-load.d" in output(REFUSED)
    (kernel / "modules_disabled").write_text("0\n")
    assert "kernel.modules_disabled=1" not in output(REFUSED)


def load(kernel: Path, *names: str) -> None:
    for name in names:
        (kernel / "loaded" / name).mkdir()
        (kernel / "loaded" / name / "initstate").write_text("live\n")


def test_an_unknown_module_is_a_suspicion(kernel: Path) -> None:
    load(kernel, *(name for name in needed_modules(DEFAULT, FAMILIES, "nftables") if name != "nft_redir"))
    error = with_missing_modules(REFUSED, DEFAULT, "nftables")
    assert error.message == REFUSED.message
    assert error.remedy.startswith("Not loaded, and nftables needs them: nft_redir; ")
    assert "modprobe -a nft_redir" in error.remedy


def test_a_refusal_that_names_something_keeps_its_words(kernel: Path) -> None:
    load(kernel, "x_tables")
    error = with_missing_modules(
        MissingFeatureError("this kernel lacks the match owner", "Load xt_owner."), DEFAULT, "nft"
    )
    assert error.message == "this kernel lacks the match owner"
    assert "xt_owner" in error.remedy.partition(";")[0]
    assert error.remedy.endswith("Load xt_owner.")


def test_a_kernel_that_has_everything_built_in_is_not_suspected(kernel: Path) -> None:
    (kernel / "loaded" / "nf_conntrack").mkdir()  # it has parameters
    assert with_missing_modules(REFUSED, DEFAULT, "nftables") is REFUSED


def test_a_missing_family_is_not_blamed_on_modules(kernel: Path) -> None:
    offer(kernel)
    (kernel / "ipv6").rmdir()
    error = MissingFeatureError("this kernel has no IPv6")
    assert with_missing_modules(error, DEFAULT, "nft") is error


def test_a_program_that_gives_no_reason_may_have_met_a_missing_module(kernel: Path) -> None:
    load(kernel, "x_tables")
    error = ToolError("iptables-legacy-restore", 1, "iptables-restore: line 14 failed\n")
    assert "xt_owner" in with_missing_modules(error, DEFAULT, "legacy").remedy


OTHERS = [
    KernelError("write", errno.EBUSY),
    UnsupportedError("a program is missing on this kernel"),
    ToolError("iptables-legacy-restore", 1, "iptables-restore: line 14 failed\n  it was given: -A INPUT"),
    ToolError("iptables-legacy-restore", 1, "invalid port"),
]


@pytest.mark.parametrize("error", OTHERS)
def test_other_errors_stay_as_they_are(kernel: Path, error: CaptureError) -> None:
    offer(kernel)
    assert with_missing_modules(error, DEFAULT, "nftables") is error


def test_nothing_is_blamed_on_modules_that_are_all_there(kernel: Path) -> None:
    for name in needed_modules(DEFAULT, FAMILIES, "nftables"):
        (kernel / "loaded" / name).mkdir()
    assert with_missing_modules(REFUSED, DEFAULT, "nftables") is REFUSED

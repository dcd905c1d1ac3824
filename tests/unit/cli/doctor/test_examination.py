from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from capture.analysis.cause_text import Cause
from capture.backends.detect import BackendChoice, SetLocation
from capture.cli.doctor.examination import CAPABILITIES, Examined, can_work, findings
from capture.errors import UnsupportedError
from capture.operations.diagnosis import Diagnosis
from capture.state.kernel_modules import Inventory
from cni import runtimes
from cni.runtimes import Runtime
from cni.status import of_this_node
from support.captures.hosts import WITH_EVERYTHING

if TYPE_CHECKING:
    from pathlib import Path

GOOD = Examined(
    facts=WITH_EVERYTHING,
    choice=BackendChoice("iptables", "restore", "nft", "that is what there is"),
    live_sets=(),
    namespace="4026532177-17",
    is_host=False,
    addresses=("10.77.0.2/32",),
    missing_capabilities=(),
    kernel="6.1.0",
    versions={"/usr/sbin/nft": "nftables v1.0.6"},
    lock_holder=None,
    state_directory="usable",
    is_recorded=True,
    record_fault="",
    modules=Inventory(is_indexed=True),
    loads_modules=True,
    diagnosis=Diagnosis(None, None, ()),
)


def listed(examined: Examined, state: str) -> list[str]:
    return [f"{finding.name}: {finding.message}" for finding in findings(examined) if finding.state == state]


def test_where_all_is_well_everything_is_ok() -> None:
    assert can_work(GOOD)
    assert {finding.state for finding in findings(GOOD)} == {"ok"}
    assert "backend: auto takes iptables nft with the driver restore: that is what there is" in listed(GOOD, "ok")


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({"is_host": True}, "note", "the host's own, which is not captured without --allow-host"),
        ({"addresses": ()}, "note", "none yet; both families would be captured"),
        ({"is_recorded": False}, "note", "nothing was applied here"),
        ({"record_fault": "the record F cannot be used: it is not JSON"}, "warning", "the record F cannot be used"),
        ({"lock_holder": 4711}, "note", "/run/xtables.lock is held by process 4711"),
        ({"state_directory": "not writable"}, "warning", "will not know the applied configuration"),
        ({"missing_capabilities": CAPABILITIES}, "error", "NET_ADMIN is not held (held: none of those that matter)"),
        ({"missing_capabilities": CAPABILITIES[1:]}, "note", "without SYS_ADMIN"),
        ({"choice": UnsupportedError("no way", "Take another.")}, "error", "backend: no way"),
        ({"diagnosis": None}, "note", "nothing is applied here"),
        ({"ipsec": UnsupportedError("no list", "")}, "note", "IPsec: no list"),
        ({"diagnosis": UnsupportedError("not permitted", "")}, "note", "capture: cannot be judged: not permitted"),
    ],
)
def test_findings_about_host_and_namespace(changes: dict[str, object], state: str, words: str) -> None:
    examined = GOOD.replace(**changes)

    assert any(words in each for each in listed(examined, state))
    assert can_work(examined) == (state != "error")


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({"nf_tables": False}, "warning", "nf_tables: absent; needed for nftables and for iptables-nft"),
        ({"nf_tables": None}, "note", "nf_tables: not permitted to query it"),
        ({"nft_compat": False}, "warning", "nft_compat and xt_owner: absent"),
        ({"legacy": "absent"}, "note", "legacy tables: absent"),
        ({"legacy": "unknown"}, "note", "legacy tables: none are loaded"),
        ({"legacy": "loadable"}, "ok", "legacy tables: can be loaded"),
        ({"legacy_tables": (("ipv4", "nat"),)}, "note", "the table nat of ipv4 exists in this namespace"),
        ({"ipv6": False}, "note", "IPv6: absent"),
        ({"python_iptables": False}, "note", "python-iptables: not installed; the driver iptc needs it"),
        ({"libnftables": False}, "note", "libnftables: not installed"),
        (
            {"programs": {which: path for which, path in WITH_EVERYTHING.programs.items() if which[1] == "ipv4"}},
            "note",
            "iptables-nft: not installed: ip6tables-nft-save, ip6tables-nft-restore; nftables needs none of it",
        ),
        ({"programs": {}}, "note", "iptables-legacy: not installed: iptables-legacy-save, "),
    ],
)
def test_findings_about_the_kernel(changes: dict[str, object], state: str, words: str) -> None:
    examined = GOOD.replace(facts=GOOD.facts.replace(**changes))

    assert any(words in each for each in listed(examined, state))


def test_everything_missing_or_bad_comes_with_a_remedy() -> None:
    worst = GOOD.replace(
        facts=GOOD.facts.replace(nf_tables=False, nft_compat=False, programs={}),
        choice=UnsupportedError("no way", "Take another."),
        missing_capabilities=CAPABILITIES,
        state_directory="not writable",
    )

    assert all(finding.remedy for finding in findings(worst) if finding.state in ("warning", "error"))


def test_our_sets_that_are_live() -> None:
    one = SetLocation(BackendChoice("iptables", "restore", "nft"), families=("ipv4", "ipv6"), spellings=("dash",))
    other = SetLocation(BackendChoice("nftables", "netlink", ""), families=("inet",), spellings=("dash",))

    assert listed(GOOD.replace(live_sets=(one,)), "note") == [
        "live rules: rules of the capture are in iptables nft (ipv4, ipv6)"
    ]
    assert listed(GOOD.replace(live_sets=(one, other)), "warning") == [
        "live rules: there are several rule sets of the capture; expected one"
    ]


def test_a_module_that_is_missing_is_named_with_who_needs_it_and_what_helps() -> None:
    examined = GOOD.replace(modules=Inventory(("nft_redir", "xt_TPROXY"), ("xt_TPROXY",), is_indexed=True))
    assert listed(examined, "warning") == [
        "xt_TPROXY: no such module; needed by iptables-nft for TPROXY, iptables-legacy for TPROXY"
    ]
    (finding,) = (finding for finding in findings(examined) if finding.name == "xt_TPROXY")
    assert "kernel-modules-extra" in finding.remedy
    assert "modules: all that a capture may need are there" not in listed(examined, "ok")


def test_an_absent_feature_names_the_missing_module() -> None:
    facts = GOOD.facts.replace(nft_compat=False)
    examined = GOOD.replace(facts=facts, modules=Inventory(("x_tables",), ("x_tables",), is_indexed=True))
    (finding,) = (finding for finding in findings(examined) if finding.name == "nft_compat and xt_owner")
    assert finding.message.endswith("this kernel cannot load the module x_tables")
    assert finding.remedy.startswith("Install the package with x_tables for kernel ")


def test_modules_that_are_not_loaded_are_no_matter_unless_nothing_is_loaded_any_more() -> None:
    examined = GOOD.replace(modules=Inventory(("nft_redir",), (), is_indexed=True))
    assert "modules: all that a capture may need are there" in listed(examined, "ok")
    (finding,) = (f for f in findings(examined.replace(loads_modules=False)) if f.name == "modules")
    assert (finding.state, finding.message.rpartition(": ")[2]) == ("warning", "nft_redir")
    assert "modules_disabled" in finding.message
    assert "/etc/modules-load.d" in finding.remedy


def test_without_an_index_of_modules_it_is_unknown() -> None:
    (note,) = listed(GOOD.replace(modules=Inventory(("nft_redir",))), "note")
    assert note.startswith("modules: which modules could be loaded is unknown: no /lib/modules/6.1.0")


def test_faults_of_the_pod_come_first_and_are_not_about_drivers() -> None:
    cause = Cause("not-listening", "no process listens on tcp port 15001", "Start the proxy.", "tcp port 15001")
    examined = GOOD.replace(diagnosis=Diagnosis(None, None, (cause,)))

    first = findings(examined)[0]
    assert (first.topic, first.state, first.kind) == ("pod", "error", "not-listening")
    assert can_work(examined)


def test_where_nothing_is_applied_there_is_nothing_wrong() -> None:
    assert "capture: nothing is applied here" in listed(GOOD.replace(diagnosis=None), "note")


# --- the node ------------------------------------------------------------------------------------


def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *types: str) -> None:
    """Make a node whose runtime takes a list of these plugins; none of them is there."""
    plugins = [{"type": kind} for kind in types]
    plain = {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}
    (tmp_path / "10-pods.conflist").write_text(json.dumps(plain))
    runtime = Runtime("containerd", "", conf_dir=str(tmp_path), bin_dirs=(str(tmp_path / "bin"),))
    monkeypatch.setattr(runtimes, "detect", lambda: runtime)


def test_a_node_with_an_entry_and_no_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, "bridge", "capture-cni")

    found = GOOD.replace(node=of_this_node())
    of_node = {each.name: each.state for each in findings(found) if each.topic == "node"}

    assert of_node["entry"] == "ok"
    assert "error" in of_node.values(), "the executable is missing"
    assert can_work(found), "of the node, not of the kernel"


def test_a_node_without_our_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, "bridge")
    assert of_this_node() == ()


def test_a_pod_has_no_findings_of_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Runtime("containerd", "", conf_dir=str(tmp_path / "none"))
    monkeypatch.setattr(runtimes, "detect", lambda: nowhere)
    assert of_this_node() == ()

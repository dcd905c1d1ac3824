"""What is missing or wrong on kernel and host is a finding, with what repairs it."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import pytest

from capture.backends.detect import BackendChoice, SetLocation
from capture.cli.doctor import examination
from capture.cli.doctor.examination import CAPABILITIES, can_work
from capture.errors import UnsupportedError
from capture.model.location import Cause
from capture.operations.diagnosis import Diagnosis
from capture.report.terminal import Finding
from capture.system.kernel_modules import ModuleInventory
from cni import runtimes
from cni.runtimes import Runtime
from cni.status import findings_of_this_node
from pytest_netns import require
from support.captures.hosts import WITH_EVERYTHING


def texts(found: Iterable[Finding], state: str) -> list[str]:
    return [f"{finding.name}: {finding.message}" for finding in found if finding.state == state]


def test_where_all_is_well_everything_is_ok(tmp_path: Path) -> None:
    found = [
        *examination.pod_findings(Diagnosis(None, None, ())),
        examination.identity_finding("4026532177-17", is_host_namespace=False),
        *examination.namespace_findings(["10.77.0.2"], own_users=True),
        examination.record_finding("", is_recorded=True),
        *examination.ipsec_findings(list),
        examination.choice_finding(WITH_EVERYTHING),
        *examination.live_set_findings(()),
        *examination.kernel_findings(WITH_EVERYTHING, ()),
        *examination.module_findings(ModuleInventory(is_indexed=True), loads_modules=True),
        *examination.privilege_findings(()),
        *examination.library_findings(WITH_EVERYTHING),
        examination.lock_finding(None),
        examination.state_directory_finding(str(tmp_path / "to be made")),
    ]
    assert {finding.state for finding in found} == {"ok"}
    assert can_work(found)
    assert "backend: auto takes iptables-nft with the driver " in "".join(texts(found, "ok"))


def refused(*_: object) -> NoReturn:
    raise UnsupportedError("no way", "Take another.")


@pytest.mark.parametrize(
    ("found", "state", "words"),
    [
        (
            [examination.identity_finding("4026531840", is_host_namespace=True)],
            "note",
            "the host's own, which is not captured without --allow-host",
        ),
        (examination.namespace_findings([], own_users=True), "note", "none yet; both families would be"),
        (examination.namespace_findings([], own_users=False), "note", "(hostUsers: false)"),
        ([examination.record_finding("", is_recorded=False)], "note", "nothing was applied here"),
        ([examination.record_finding("the record F cannot be used", is_recorded=False)], "warning", "cannot be used"),
        ([examination.lock_finding(4711)], "note", "/run/xtables.lock is held by process 4711"),
        ([examination.state_directory_finding("/proc/none/x")], "warning", "will not know the applied configuration"),
        (
            [examination.state_directory_finding("/dev/null")],
            "error",
            "state: state directory /dev/null: expected a dir",
        ),
        (
            examination.privilege_findings(CAPABILITIES),
            "error",
            "NET_ADMIN is not held (held: none of those that matter)",
        ),
        (examination.privilege_findings(CAPABILITIES[1:]), "note", "without SYS_ADMIN"),
        (examination.pod_findings(None), "note", "nothing is applied here"),
        (examination.pod_findings(UnsupportedError("not permitted", "")), "note", "cannot be judged: not permitted"),
        (examination.ipsec_findings(refused), "note", "IPsec: no way"),
    ],
)
def test_findings_about_host_and_namespace(found: Iterable[Finding], state: str, words: str) -> None:
    listed = list(found)
    assert any(words in each for each in texts(listed, state))
    assert can_work(listed) == (state != "error")
    assert all(finding.remedy for finding in listed if finding.state in ("warning", "error"))


def test_where_no_backend_can_be_chosen_capture_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capture.backends.detect.choose", refused)
    finding = examination.choice_finding(WITH_EVERYTHING)
    assert (finding.state, finding.message, finding.remedy) == ("error", "no way", "Take another.")
    assert not can_work([finding])


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({"has_nf_tables": False}, "warning", "nf_tables: absent; needed for nftables and for iptables-nft"),
        ({"has_nf_tables": None}, "note", "nf_tables: not permitted to query it"),
        ({"has_nft_compat": False}, "warning", "nft_compat and xt_owner: absent"),
        ({"legacy": "absent"}, "note", "legacy tables: absent"),
        ({"legacy": "unknown"}, "note", "legacy tables: none is loaded"),
        ({"legacy": "loadable"}, "ok", "legacy tables: can be loaded"),
        ({"legacy_tables": (("ipv4", "nat"),)}, "note", "the table nat of ipv4 exists in this namespace"),
        ({"ipv6": False}, "note", "IPv6: absent"),
        ({"has_python_iptables": False}, "note", "python-iptables: not installed; the driver iptc needs it"),
        ({"has_libnftables": False}, "note", "libnftables: not installed"),
        (
            {"programs": {which: path for which, path in WITH_EVERYTHING.programs.items() if which[1] == "ipv4"}},
            "note",
            "iptables-nft: not installed: ip6tables-nft-save, ip6tables-nft-restore; nftables needs none of it",
        ),
        ({"programs": {}}, "note", "iptables-legacy: not installed: iptables-legacy-save, "),
    ],
)
def test_findings_about_the_kernel(changes: dict[str, object], state: str, words: str) -> None:
    facts = WITH_EVERYTHING.replace(**changes)
    about = (
        examination.program_findings(facts),
        examination.library_findings(facts),
        examination.kernel_findings(facts, ()),
    )
    found = [finding for findings in about for finding in findings]
    assert any(words in each for each in texts(found, state))
    assert all(finding.remedy for finding in found if finding.state in ("warning", "error"))


def test_our_sets_that_are_live() -> None:
    one = SetLocation(BackendChoice("iptables", "restore", "nft"), families=("ipv4", "ipv6"))
    other = SetLocation(BackendChoice("nftables", "netlink", ""), families=("inet",))

    assert texts(examination.live_set_findings([one]), "note") == [
        "live rules: rules of the capture are in iptables-nft (ipv4, ipv6)"
    ]
    assert texts(examination.live_set_findings([one, other]), "warning") == [
        "live rules: there are several rule sets of the capture; expected one"
    ]


def test_a_module_that_is_missing_is_named_with_who_needs_it_and_what_helps() -> None:
    modules = ModuleInventory(("nft_redir", "xt_TPROXY"), ("xt_TPROXY",), is_indexed=True)
    (finding,) = examination.module_findings(modules, loads_modules=True)
    assert (finding.name, finding.state) == ("xt_TPROXY", "warning")
    assert finding.message == "no such module; needed by iptables-nft for TPROXY, iptables-legacy for TPROXY"
    assert "kernel-modules-extra" in finding.remedy


def test_an_absent_feature_names_the_missing_module() -> None:
    found = examination.kernel_findings(WITH_EVERYTHING.replace(has_nft_compat=False), ("x_tables",))
    (finding,) = (finding for finding in found if finding.name == "nft_compat and xt_owner")
    assert finding.message.endswith("this kernel cannot load the module x_tables")
    assert finding.remedy.startswith("Install the package with x_tables for kernel ")


def test_missing_modules_matter_only_where_none_can_be_loaded() -> None:
    modules = ModuleInventory(("nft_redir",), (), is_indexed=True)
    (ok,) = examination.module_findings(modules, loads_modules=True)
    assert (ok.state, ok.message) == ("ok", "all that a capture may need are there")
    (finding,) = examination.module_findings(modules, loads_modules=False)
    assert (finding.state, finding.message.rpartition(": ")[2]) == ("warning", "nft_redir")
    assert "modules_disabled" in finding.message
    assert "/etc/modules-load.d" in finding.remedy


def test_without_an_index_of_modules_it_is_unknown() -> None:
    (note,) = examination.module_findings(ModuleInventory(("nft_redir",)), loads_modules=True)
    assert (note.name, note.state) == ("modules", "note")
    assert note.message.startswith("those that can be loaded are unknown: no /lib/modules/")


def test_faults_of_the_pod_are_not_about_drivers() -> None:
    cause = Cause("not-listening", "no process listens on tcp port 15001", "Start the proxy.", "tcp port 15001")
    (finding,) = examination.pod_findings(Diagnosis(None, None, (cause,)))
    assert (finding.topic, finding.state, finding.kind) == ("pod", "error", "not-listening")
    assert can_work([finding])


def test_the_pod_comes_first() -> None:
    require(os.geteuid() == 0, "the findings of a look as root")
    assert examination.examine()[0].topic == "pod"


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

    states = {each.name: each.state for each in findings_of_this_node()}
    assert states["entry"] == "ok"
    assert "error" in states.values(), "the executable is missing"


def test_a_node_without_our_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, "bridge")
    assert findings_of_this_node() == ()


def test_a_pod_has_no_findings_of_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Runtime("containerd", "", conf_dir=str(tmp_path / "none"))
    monkeypatch.setattr(runtimes, "detect", lambda: nowhere)
    assert findings_of_this_node() == ()

"""docs/tested.md: what was run on a real Kubernetes node, and what was only read."""

import datetime as dt
import functools
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence

from support.cluster import builds

PAGE = builds.ROOT / "docs" / "tested.md"
RESULTS: dict[tuple[str, str], str] = {}
MARKS = {"passed": "ok", "failed": "**FAILED**", "skipped": "n/a"}

INTRODUCTION = (
    "`make test-cluster` wrote this on {date}, at commit {revision}: Kubernetes {kubernetes}, containerd {first} and "
    "{second}, Linux {linux}. Traffic goes through real Envoys; what an application saw tells which way a request "
    "went. The machine had {cores} cores, and a load of {load:.0f} at the end: other work makes pods slow. "
    "A row that this run left out keeps its result of an earlier one, with the commit of that in brackets."
)
NOT_RUN = "not run"
CROWD = "test_crowd.py"
CROWDED = (
    "## A node with five hundred pods",
    "",
    (
        "The API server is real. There are five hundred network namespaces with rules and listeners, and a runtime "
        "that tells of them. The agent of the image runs in a control group of its own, with the chart's probes. No "
        "kubelet: its pods would take all of two cores."
    ),
    "",
)
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "The plugin runs where it lies before the entry names it": (
        "test_the_plugin_is_tried_as_a_runtime_calls_it", "test_a_plugin_that_does_not_answer_gets_no_entry",
        "test_half_a_bundle_is_refused_and_what_is_installed_stays",
    ),
    "Ready is what the runtime itself has loaded": (
        "test_ready_is_what_the_runtime_has_loaded", "test_ready_is_when_the_runtime_has_loaded_the_entry",
    ),
    "A rival's rewrite is answered within 20 ms, and counted": ("test_an_overwritten_entry_is_back_at_once",),
    "Pods that started in a gap are found from their namespace, and repaired": (
        "test_a_pod_that_started_in_a_gap_is_found", "test_a_pod_without_rules_is_found_and_one_with_them_is_captured",
    ),
    "A faster rival: back-off, not ready, an Event with its name": (
        "test_a_faster_rival_is_named", "test_more_losses_are_answered_later_and_later_up_to_a_minute",
    ),
    "A list of our own follows the main one, and goes with it": (
        "test_a_list_of_our_own_follows_the_main_one", "test_a_list_of_our_own_goes_with_the_main_one",
    ),
    "On CRI-O the entry is in the main list as well": (
        "test_a_list_of_our_own_does_not_fall_open_where_the_next_one_is_taken",
        "test_under_crio_the_entry_is_in_the_list_that_crio_takes",
    ),
    "The directory's parent is watched": ("test_a_directory_that_is_moved_away_and_made_again_is_watched_again",),
    "Our own files are private, durable, and out of the runtime's directory": (
        "test_the_plugins_credentials_are_for_root_alone",
        "test_mode_and_owner_of_a_list_are_kept", "test_the_credentials_are_private_and_accepted",
    ),
    "Directories of each platform": (
        "test_k3s_has_directories_of_its_own", "test_the_arguments_are_those_of_the_program",
    ),
    "A disk that cannot be written is one clear error": ("test_a_full_or_read_only_disk_keeps_what_it_has",),
    "An entry of Multus, without a result of plugins before": (
        "test_a_network_of_its_own_and_an_entry_in_the_list_give_one_set_of_rules",
        "test_another_interface_of_the_pod_changes_nothing",
    ),
    "Token and CA reach the plugin at once; their end is a metric": (
        "test_a_renewed_token_reaches_the_plugin_at_once", "test_a_token_is_short_when_kubelet_should_have_renewed_it",
        "test_exchanging_the_token_loses_no_pod",
    ),
    "A token that is refused is read again": ("test_a_token_that_was_renewed_is_used",),
    "Rolling updates open no gap": ("test_a_rolling_update_opens_no_gap", "test_the_newest_agent_acts"),
    "Uninstall by the chart's hook or with the DaemonSet; on doubt nothing goes": (
        "test_an_uninstalled_node_is_as_it_was", "test_a_node_that_is_not_chosen_is_uninstalled",
        "test_only_a_daemon_set_that_is_certainly_gone_is_gone",
    ),
    "The plugin stays for the attachments made with it": ("test_the_plugin_goes_with_the_last_pod_that_remembers_it",),
    "Drain and reboot: pods are captured though the agent comes last": ("test_pods_are_captured_after_a_reboot",),
    "Taints of new nodes go, others stay, none is put on": ("test_our_taint_goes_and_others_stay",),
    "The API server is away: annotations decide, the agent goes on": (
        "test_pods_start_while_the_api_server_is_away", "test_no_fault_makes_it_ask_more_than_twice_a_second",
        "test_while_the_api_server_is_away_nothing_is_certain",
    ),
    "Killed at any moment: what is on disk is all it needs": (
        "test_killing_the_agent_loses_no_pod", "test_a_killed_agent_leaves_everything_for_the_next_one",
    ),
    "Five hundred pods: memory, CPU, and the API server's cache in place of etcd": (
        "test_quiet_pods_cost_little", "test_exchanged_pods_cost_little",
        "test_a_list_comes_from_the_cache_and_reduced",
    ),
    "No privilege beyond the audit's": (
        "test_the_agent_has_the_capabilities_of_the_audit", "test_the_agent_has_no_privilege",
    ),
    "A drift, a late family, a second set, a wrong listener: found within 5 s": (
        "test_a_deleted_rule_comes_back", "test_a_late_family_is_captured", "test_a_second_set_is_removed",
        "test_a_listener_of_another_user_is_reported",
    ),
    "Evictions respect budgets, and mean the very pod": (
        "test_an_eviction_waits_for_a_budget", "test_only_the_very_pod_is_evicted",
    ),
    "Every cause is named for a pod by its name": ("test_why_names_the_cause_of_each_broken_pod",),
    "SELinux: the agent's type": (),
}  # fmt: skip
"""The requirements of the agent; each test named here exists (tests/unit/deploy/test_requirements.py)."""

READ_ONLY = """\
## Only read, not run

| what | from where |
|---|---|
| CRI-O | ocicni's choice of a list; its `Status` has no `cniconfig`, so that readiness looks at the file alone |
| Multus | the list of the delegate; a NetworkAttachmentDefinition |
| SELinux enforcing | `seLinuxType: spc_t` of the chart |
| arm64 | nothing in the agent depends on the machine |
| GKE, EKS, AKS, OpenShift, k3s, MicroK8s, Talos | directories and sockets of the chart's platforms |
| cgroup v2, kubelet 1.35 and later | the controllers of the machine are in hierarchies of version 1 |
| several nodes | |
"""


def note(nodeid: str, outcome: str, measured: str = "") -> None:
    """Remember what happened to a test, by its name and the kind of node, with what it measured."""
    name, _, kind = nodeid.partition("[")
    RESULTS[name, kind.rstrip("]")] = f"{outcome} {measured}".strip()


def earlier(page: str) -> dict[tuple[str, str], str]:
    """Return the results on a page, by what the row states and the kind of node ("" for the crowd), with their commit.

    The page is all that is kept of a run: one that is cut off, or runs a part, takes nothing away from the others.
    """
    answer = re.search(r"at commit (\w+)", page)
    commit = f" ({answer[1]})" if answer else ""
    found: dict[tuple[str, str], str] = {}
    kinds: list[str] = []
    for line in page.partition("## What an agent has to do")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if cells and not cells[0]:
            kinds = cells[1:]
        elif cells and not cells[0].startswith("---"):
            for kind, cell in zip(kinds, cells[1:], strict=False):
                is_final = cell in {"", NOT_RUN, MARKS["skipped"]} or re.search(r" \([0-9a-f]{7,}\)$", cell)
                found[cells[0], kind] = cell if is_final else cell + commit
    return found


def write(rows: Mapping[str, str], kinds: Sequence[str], before: str) -> None:
    """Write the page that follows the one of before."""
    PAGE.write_text(document(rows, kinds, _revision(), earlier(before)))


def document(rows: Mapping[str, str], kinds: Sequence[str], revision: str, known: Mapping[tuple[str, str], str]) -> str:
    """Return the page: a table with a row for each test and a column for each kind of node, and what was measured."""
    ids = {kind: kind.replace(" ", "-").replace(",", "") for kind in kinds}

    def cell(name: str, kind: str) -> str:
        return _mark(name, ids.get(kind, "")) or known.get((rows[name], kind)) or NOT_RUN

    lines = [
        "# Tested on a real Kubernetes node",
        "",
        INTRODUCTION.format(
            date=f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
            revision=revision,
            kubernetes=builds.KUBERNETES,
            first=_version("containerd"),
            second=builds.CONTAINERD,
            linux=platform.release(),
            cores=os.cpu_count(),
            load=os.getloadavg()[2],
        ),
        "",
        f"| | {' | '.join(kinds)} |",
        f"|---|{'---|' * len(kinds)}",
    ]
    crowded = {name: sentence for name, sentence in rows.items() if CROWD in name}
    for name, sentence in rows.items():
        if name not in crowded:
            lines.append(f"| {sentence} | {' | '.join(cell(name, kind) for kind in kinds)} |")
    lines += ["", "n/a: does not apply there.", "", *CROWDED, "| | |", "|---|---|"]
    lines += [f"| {sentence} | {cell(name, '')} |" for name, sentence in crowded.items()]
    return "\n".join([*lines, "", *_requirements(), READ_ONLY])


def _mark(name: str, kind: str) -> str:
    outcome, _, measured = RESULTS.get((name, kind), "").partition(" ")
    return ": ".join(filter(None, (MARKS.get(outcome, ""), measured)))


def _requirements() -> list[str]:
    lines = ["## What an agent has to do, and which test holds it", "", "| | tests |", "|---|---|"]
    for requirement, tests in REQUIREMENTS.items():
        named = ", ".join(f"`{each}`" for each in tests) or "only read"
        lines.append(f"| {requirement} | {named} |")
    return [*lines, ""]


@functools.cache
def _revision() -> str:
    answer = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=builds.ROOT, capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or "unknown"


@functools.cache
def _version(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return next((word for word in done.stdout.split() if word[:1].isdigit()), "?").partition("~")[0]

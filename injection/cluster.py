"""``capture inject --check --cluster``: which running pods are captured, and by which carrier; kubectl lists them."""

from __future__ import annotations

import json
import subprocess

from capture.errors import CaptureError, ToolError, UnsupportedError
from capture.model.text import shortened
from capture.settings.pod import INIT_CONTAINER
from capture.settings.settings import Settings
from cni.agent.kubectl import kubectl_words
from cni.decision import first_exemption
from cni.pod import Identity
from cni.pod_object import pod_from_object
from cni.protocol import CniError
from injection.check import BY_INIT, BY_PLUGIN, Report
from injection.plan import injection_settings
from injection.pods import Workload, containers_of, workloads
from injection.settings import PodSettings
from injection.shape import POD_SHAPE, misfits
from injection.template import Template
from injection.warnings import dangers

LIST_PODS_COMMAND = ["kubectl", "get", "pods", "--all-namespaces", "--output=json"]


def running_pod_reports() -> list[Report]:
    """Return the findings about each pod that runs. Raises CaptureError if kubectl fails, or prints something else."""
    try:
        done = subprocess.run(LIST_PODS_COMMAND, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError:
        raise UnsupportedError(
            "kubectl is not installed; listing the pods needs it", "Install it, or check manifests with -f."
        ) from None
    if done.returncode:
        remedy = "Name a cluster that answers: `kubectl config current-context`, or KUBECONFIG in the environment."
        raise ToolError(" ".join(LIST_PODS_COMMAND), done.returncode, kubectl_words(done.stderr), remedy)
    return [_workload_report(workload) for workload in workloads(_parsed_list(done.stdout))]


def _parsed_list(text: str) -> object:
    """Return the list that kubectl prints; CaptureError for anything else."""
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        listed = None
    if not isinstance(listed, dict) or not isinstance(listed.get("items"), list):
        message = f"`{' '.join(LIST_PODS_COMMAND)}` printed no list of objects: {shortened(text)!r}"
        raise CaptureError(message, "Look what `kubectl` is in PATH, and what it prints.")
    return listed


def _workload_report(workload: Workload) -> Report:
    misfit = next(misfits(workload.pod, POD_SHAPE), "")
    carrier, reason = ("", misfit) if misfit else _capture_carrier(workload)
    warnings: tuple[str, ...] = ()
    if carrier:
        settings = _workload_settings(workload)
        warnings = dangers(workload, settings) if settings else ("its capture's settings cannot be read",)
    return Report(str(workload), bool(carrier), reason, warnings, carrier=carrier)


def _capture_carrier(workload: Workload) -> tuple[str, str]:
    """Return the carrier of a pod's capture, or "" and why it is not captured."""
    names = [each.get("name") for each in containers_of(workload.pod["spec"])]
    if workload.pod["spec"].get("hostNetwork"):
        return "", "it uses the node's network (hostNetwork)"
    if INIT_CONTAINER in names:
        return BY_INIT, ""
    try:
        exemption = first_exemption(pod_from_object(Identity(workload.namespace, workload.name), workload.pod))
    except (CaptureError, CniError) as error:
        return "", error.message
    return ("", exemption.reason) if exemption else (BY_PLUGIN, "")


def _workload_settings(workload: Workload) -> PodSettings | None:
    try:
        return injection_settings(workload, Template(), Settings({}))
    except CaptureError:
        return None

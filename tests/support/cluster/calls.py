"""Calling an application in a pod from another pod, and reading which way the request went."""

import json
from typing import Any

from support.cluster.installed import Cluster
from support.cluster.pods import APP_PORT

OUT, IN = "outbound", "inbound"
BOTH: list[str] = [OUT, IN]
NONE: list[str] = []


def address(cluster: Cluster, name: str, family: str = "") -> str:
    """Return an address of a pod; of the first family of the cluster, unless another one is requested."""
    found = [each["ip"] for each in cluster.get("pod", name)["status"]["podIPs"]]
    requested = family or cluster.families[0]
    return next(f"[{ip}]" if ":" in ip else ip for ip in found if (":" in ip) == (requested == "ipv6"))


def service_address(cluster: Cluster, name: str, family: str) -> str:
    found = cluster.get("service", name)["spec"]["clusterIPs"]
    return next(f"[{ip}]" if ":" in ip else ip for ip in found if (":" in ip) == (family == "ipv6"))


def call_from_pod(cluster: Cluster, source: str, host: str, port: int = APP_PORT) -> dict[str, Any]:
    """Call an application from a pod, and return what it saw."""
    url = f"http://{host}:{port}/"
    printed = cluster.kubectl("exec", source, "-c", "app", "--", "curl", "-gsS", "-m8", url)
    answer: dict[str, Any] = json.JSONDecoder().raw_decode(printed)[0]  # kubectl may warn behind it
    return answer


def sides_passed(answer: dict[str, Any]) -> list[str]:
    """Return the sides of proxies that a request passed."""
    return list(answer["headers"].get("x-capture-proxy") or [])

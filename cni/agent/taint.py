"""Takes the taints off this node that keep pods away until they can be captured.

The maker of the node puts them on (kubelet's --register-with-taints, Karpenter's startupTaints, an autoscaler's node
template). The agent never does, so that no fault of it can empty a cluster.
"""

from __future__ import annotations

from typing import Any

from lightkube import Client
from lightkube.types import PatchType

from cni.agent import api


def remove_taints(client: Client, node: str, keys: tuple[str, ...]) -> tuple[bool, str]:
    """Remove the taints with these keys; return whether the node has none of them now, and what went wrong.

    The patch names what was read (RFC 6902, "test"): taints that another program changes meanwhile are not lost.
    """
    try:
        taints = (client.get(api.Node, node).get("spec") or {}).get("taints") or []
        positions = [number for number, taint in enumerate(taints) if taint.get("key") in keys]
        if not positions:
            return True, ""
        patch: Any = removal_patch(taints, positions)  # lightkube's types know objects alone
        client.patch(api.Node, node, patch, patch_type=PatchType.JSON)
    except api.API_ERRORS as error:
        return False, api.error_text(error)
    return True, ""


def removal_patch(taints: list[dict[str, Any]], positions: list[int]) -> list[dict[str, Any]]:
    """Return the JSON patch that removes the taints at these places."""
    same = [{"op": "test", "path": "/spec/taints", "value": taints}]
    return same + [{"op": "remove", "path": f"/spec/taints/{number}"} for number in reversed(positions)]

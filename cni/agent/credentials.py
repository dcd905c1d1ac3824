"""Gives the plugin a kubeconfig, a token and the cluster's CA, and renews them as kubelet does.

A token of a service account lives for an hour, and ends with the pod that it is bound to. Kubelet renews it in the
agent's pod by a rename (``..data``, projected volumes), so that a watch on that directory sees it at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from cni.agent.options import Options
from cni.atomic_files import write_if_changed
from cni.kubeconfig import Kubeconfig
from cni.kubeconfig_file import as_json


def renew(options: Options, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Write what differs from the service account's; return the paths that were written. Raises OSError."""
    source, target = options.service_account, options.credentials
    os.makedirs(target, mode=0o700, exist_ok=True)
    with open(os.path.join(source, "token"), "rb") as file:
        token = file.read().strip()
    with open(os.path.join(source, "ca.crt"), "rb") as file:
        authority = file.read()
    access = Kubeconfig(
        options.kubeconfig,
        {
            "server": options.api_server or api_server(environment),
            "certificate-authority": os.path.join(target, "ca.crt"),
        },
        {"tokenFile": os.path.join(target, "token")},
    )
    desired = {"ca.crt": authority, "token": token, "kubeconfig": as_json(access)}
    return [path for name, content in desired.items() if write_if_changed(path := os.path.join(target, name), content)]


def remove(options: Options) -> list[str]:
    """Remove what ``renew`` has written; return what was there."""
    removed = []
    for name in ("kubeconfig", "token", "ca.crt"):
        path = os.path.join(options.credentials, name)
        with suppress(FileNotFoundError):
            os.unlink(path)
            removed.append(path)
    with suppress(OSError):  # it was never there, or another program keeps files in it
        os.rmdir(options.credentials)
    return removed


def api_server(environment: Mapping[str, str]) -> str:
    """Return the URL of the API server that kubelet gives to pods."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"

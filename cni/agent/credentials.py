"""Gives the plugin a kubeconfig, a token and the cluster's CA, and renews them as kubelet does.

A token of a service account lives for an hour, and ends with the pod that it is bound to. Kubelet renews it in the
agent's pod by a rename (``..data``, projected volumes), so that a watch on that directory sees it at once.
"""

from __future__ import annotations

import binascii
import os
from collections.abc import Mapping
from contextlib import suppress

from capture.model.values import Value
from capture.state.json_text import JsonError, decode
from cni.agent.options import Options
from cni.atomic_files import put
from cni.kubeconfig import Kubeconfig
from cni.kubeconfig_file import as_json

LOW_LIFETIME_SHARE = 0.1
"""Part of a token's life that is left when something is wrong with its renewal: kubelet renews at 0.2."""


class Token(Value):
    """The times in a token, seconds since the epoch; 0 if it has none."""

    issued: float
    expires: float

    def left(self, now: float) -> float:
        """Return the seconds until it ends; infinite if it never does."""
        return self.expires - now if self.expires else float("inf")

    def is_short(self, now: float) -> bool:
        """Whether less is left than kubelet ever lets it come to."""
        return bool(self.expires) and self.left(now) < LOW_LIFETIME_SHARE * (self.expires - self.issued)


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
        options.api_server or api_server(environment),
        authority_file=os.path.join(target, "ca.crt"),
        token_file=os.path.join(target, "token"),
    )
    desired = {
        "ca.crt": authority,
        "token": token,
        "kubeconfig": as_json(access),
    }
    return [path for name, content in desired.items() if put(path := os.path.join(target, name), content)]


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


def token_in(path: str) -> Token:
    """Return the times of a token in a file. Raises OSError."""
    with open(path, "rb") as file:
        return times_of(file.read())


def times_of(token: bytes) -> Token:
    """Return the times in a JSON Web Token (RFC 7519, "exp" and "iat"); other texts have none."""
    parts = token.strip().split(b".")
    if len(parts) != 3:
        return Token(0.0, 0.0)
    padded = parts[1].replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-len(parts[1]) % 4)
    try:
        claims = decode(binascii.a2b_base64(padded).decode())
        return Token(float(claims.get("iat", 0)), float(claims.get("exp", 0)))
    except (ValueError, JsonError, AttributeError, TypeError):
        return Token(0.0, 0.0)


def api_server(environment: Mapping[str, str]) -> str:
    """Return the URL of the API server that kubelet gives to pods."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"

"""A kubeconfig: how to reach an API server, and as whom. Text in, values out; files that it names are read later.

The plugin reads JSON alone. Kubeconfigs in YAML are converted when they are installed (``cni.kubeconfig_file``).

Source of the fields: Kubernetes, ``client-go/tools/clientcmd/api/v1``.
"""

from __future__ import annotations

from capture.model.json_text import JsonError, decode_json
from capture.model.values import Value
from cni.codes import BAD_KUBECONFIG
from cni.protocol import CniError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

CREDENTIAL_FIELDS = "token, tokenFile, or client-certificate with client-key (these two also with -data)"

# Fields that change the login, and are not supported: programs, and old ways to log in.
UNSUPPORTED_USER = ("exec", "auth-provider", "username", "password", "as", "as-groups", "as-uid")
UNSUPPORTED_CLUSTER = ("proxy-url",)

CLUSTER_TEXTS = ("server", "tls-server-name", "certificate-authority-data")
CLUSTER_FILES = ("certificate-authority",)
USER_TEXTS = ("token", "client-certificate-data", "client-key-data")
USER_FILES = ("tokenFile", "client-certificate", "client-key")
SKIPS_VERIFICATION = "insecure-skip-tls-verify"


class Kubeconfig(Value):
    """The texts of a kubeconfig by their keys in it, those that are not empty; paths are absolute.

    Of a file and its content in place (``-data``, base64), the content counts.
    """

    path: str
    cluster: Mapping[str, str]
    user: Mapping[str, str] = {}  # never changed
    skips_verification: bool = False

    @property
    def server(self) -> str:
        return self.cluster["server"]


def unusable_kubeconfig(path: str, problem: str, remedy: str = "") -> CniError:
    """Return the error for a kubeconfig, or a file that it names, that cannot be used."""
    return CniError(
        BAD_KUBECONFIG,
        f"kubeconfig {path}: {problem}",
        remedy or f"Correct it, and try it with `kubectl --kubeconfig {path} get pods`.",
    )


def parse_kubeconfig(text: str, path: str) -> Kubeconfig:
    """Return the current context of a kubeconfig; raise ``CniError`` with the path and the place."""
    try:
        plain = decode_json(text)
    except JsonError as error:
        raise unusable_kubeconfig(
            path,
            f"it is not JSON: {error}",
            "`capture cni install --kubeconfig FILE` converts YAML; or write it as JSON: `kubectl config view --raw -o"
            " json`.",
        ) from None
    reader = _Reader(path)
    config = reader.mapping(plain, "it")
    context = reader.named_entry(config, "contexts", "context", reader.text(config, "current-context"))
    cluster = reader.named_entry(config, "clusters", "cluster", reader.text(context, "cluster"))
    user = reader.named_entry(config, "users", "user", reader.text(context, "user")) if context.get("user") else {}
    reader.refuse(cluster, UNSUPPORTED_CLUSTER, "a connection straight to the server")
    reader.refuse(user, UNSUPPORTED_USER, CREDENTIAL_FIELDS)
    skips_verification = reader.boolean(cluster, SKIPS_VERIFICATION)
    texts = reader.texts(cluster, CLUSTER_TEXTS, CLUSTER_FILES)
    if "server" not in texts:
        raise unusable_kubeconfig(path, "the cluster of the current context has no 'server'")
    return Kubeconfig(path, texts, reader.texts(user, USER_TEXTS, USER_FILES), skips_verification)


class _Reader:
    """Takes fields out of the decoded file, and knows which file the errors are about."""

    def __init__(self, path: str) -> None:
        self.path = path

    def mapping(self, value: object, name: str) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        raise unusable_kubeconfig(self.path, f"{name} is not a mapping of names to values")

    def text(self, holder: dict[str, Any], key: str) -> str:
        value = holder.get(key)
        if value is None:
            return ""
        if key.endswith("-data") and isinstance(value, str):
            value = "".join(value.splitlines())  # base64 may have several
        if not isinstance(value, str) or not value.isprintable():
            raise unusable_kubeconfig(self.path, f"{key!r} is not a text on one line")
        return value

    def texts(self, holder: dict[str, Any], keys: tuple[str, ...], paths: tuple[str, ...]) -> dict[str, str]:
        """Return the texts that are not empty; a relative path starts where the kubeconfig is."""
        texts = {key: text for key in (*keys, *paths) if (text := self.text(holder, key))}
        relative = {key: text for key, text in texts.items() if key in paths and not text.startswith("/")}
        return texts | {key: f"{self.path.rpartition('/')[0]}/{text}" for key, text in relative.items()}

    def boolean(self, holder: dict[str, Any], key: str) -> bool:
        value = holder.get(key)
        if value in (None, False, "false", "False"):
            return False
        if value in (True, "true", "True"):
            return True
        raise unusable_kubeconfig(self.path, f"{key!r}: invalid value {shown(value)}: expected true or false")

    def named_entry(self, config: dict[str, Any], key: str, member: str, name: str) -> dict[str, Any]:
        """Return what a list of the file, such as ``clusters``, has under a name."""
        if not name:
            missing = "current-context" if key == "contexts" else f"{member} in the current context"
            raise unusable_kubeconfig(self.path, f"there is no {missing}")
        entries = config.get(key)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and entry.get("name") == name:
                return self.mapping(entry.get(member), f"{key} {name!r}")
        raise unusable_kubeconfig(self.path, f"{key!r} has no entry {name!r}")

    def refuse(self, holder: dict[str, Any], keys: tuple[str, ...], expected: str) -> None:
        for key in keys:
            if holder.get(key):
                raise unusable_kubeconfig(self.path, f"{key!r} is not supported: expected {expected}")

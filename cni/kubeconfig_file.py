"""Makes a kubeconfig one that the plugin reads: JSON, with absolute paths, of the current context only.

People and tools write kubeconfigs in any YAML. The plugin starts for each pod and has no YAML library, so a kubeconfig
is converted when it is installed.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from capture.errors import CaptureError
from capture.model.json_text import JsonError, decode_json
from capture.state.directory import make_private
from cni import atomic_files
from cni.kubeconfig import SKIPS_VERIFICATION, Kubeconfig, parse_kubeconfig, unusable_kubeconfig
from cni.kubernetes import read_named_file, require_usable
from cni.plugin_files import FileChange
from cni.protocol import CniError

MAX_KUBECONFIG_VALUES = 1_000_000
"""Values of a kubeconfig with its aliases written out; without aliases a file of MAX_FILE bytes has fewer."""
RESOLVED_TAGS = [f"tag:yaml.org,2002:{name}" for name in ("merge", "null", "bool")]
"""Tags of YAML that plain words may have; numbers and dates stay texts."""
KUBECONFIG_NAME = "kubeconfig"


def prepare_for_plugin(path: str, directory: str) -> tuple[str, list[FileChange], list[str]]:
    """Return the path to name in the entry, what was written, and warnings; a file that needs no change stays.

    What is converted goes to ``directory``, for root alone. Raises CaptureError for a kubeconfig that the plugin could
    not use: every pod of the mesh would fail.
    """
    try:
        text = read_named_file(path, path).decode("utf-8", "replace")
        json_text = _json_text(text, path)
        kubeconfig = parse_kubeconfig(json_text, path)
        require_usable(kubeconfig)
    except CniError as error:
        raise CaptureError(error.message, f"{error.details} Nothing was installed.") from None
    if json_text is text:
        return path, [], []
    target = os.path.join(directory, KUBECONFIG_NAME)
    make_private(directory)
    is_new = atomic_files.write_if_changed(target, as_json(kubeconfig))
    warnings = []
    if "token" in kubeconfig.user:
        warnings.append(
            f"{path} has the token itself, of which {target} is a copy: if something renews it there, name a tokenFile"
            " instead, or install again after each renewal"
        )
    return target, [FileChange(target, f"converted from {path}")] if is_new else [], warnings


def remove(directory: str) -> list[FileChange]:
    """Remove the kubeconfig that was converted, if it is not the agent's; return what was removed."""
    path = os.path.join(directory, KUBECONFIG_NAME)
    if not os.path.lexists(path) or os.path.exists(os.path.join(directory, "token")):  # the agent's, with its token
        return []
    os.unlink(path)
    if not os.listdir(directory):
        os.rmdir(directory)
    return [FileChange(path, "removed")]


def _json_text(text: str, path: str) -> str:
    """Return a text as JSON: that in JSON itself, of one in YAML the first document, as kubectl reads it."""
    import json

    with suppress(JsonError):
        decode_json(text)
        return text

    try:
        import yaml
    except ImportError:
        remedy = "Write it as JSON: `kubectl config view --raw -o json`."
        raise unusable_kubeconfig(path, "it is YAML, which takes the package PyYAML to read", remedy) from None

    resolvers = {
        character: [resolver for resolver in of_character if resolver[0] in RESOLVED_TAGS]
        for character, of_character in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    loader = type("Loader", (yaml.SafeLoader,), {"yaml_implicit_resolvers": resolvers})
    try:
        plain = next(iter(yaml.load_all(text, Loader=loader)), None)
        _require_bounded(plain, [MAX_KUBECONFIG_VALUES])
        return json.dumps(plain)
    except yaml.MarkedYAMLError as error:  # its words quote the line, which may have a secret
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise unusable_kubeconfig(path, f"it is not valid YAML: line {line}: {error.problem}") from None
    except (yaml.YAMLError, TypeError, ValueError, RecursionError):
        raise unusable_kubeconfig(path, "it is neither JSON nor YAML") from None


def _require_bounded(value: Any, remaining: list[int]) -> None:
    """Raise ValueError if aliases make more of a value than the remaining number of values."""
    remaining[0] -= 1
    if remaining[0] < 0:
        raise ValueError(MAX_KUBECONFIG_VALUES)
    for nested in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _require_bounded(nested, remaining)


def as_json(config: Kubeconfig) -> bytes:
    """Return a kubeconfig as the plugin reads it."""
    import json

    skips_verification = {SKIPS_VERIFICATION: True} if config.skips_verification else {}
    plain = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": {**config.cluster, **skips_verification}}],
        "users": [{"name": "capture-cni", "user": config.user}],
        "contexts": [{"name": "capture", "context": {"cluster": "cluster", "user": "capture-cni"}}],
        "current-context": "capture",
    }
    return json.dumps(plain, indent=2).encode() + b"\n"

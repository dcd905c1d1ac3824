"""Endpoints as files that a running Envoy watches: a change needs neither a restart nor a server (EDS by path)."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable

from capture.errors import CaptureError
from sidecar.envoy import TYPE_PREFIX, Json, load_assignment
from sidecar.outbound import ServiceDestination

PREFIX = "outbound_"
SUFFIX = ".json"
RESOURCE = TYPE_PREFIX + "config.endpoint.v3.ClusterLoadAssignment"


def inline_endpoints(destination: ServiceDestination) -> Json:
    """Return the fields of a cluster whose endpoints are in the bootstrap itself."""
    return {"kind": "STATIC", "load_assignment": _load_assignment(destination)}


def file_endpoints(destination: ServiceDestination, directory: str) -> Json:
    """Return the fields of a cluster whose endpoints are in a file of a directory."""
    path = os.path.join(directory, file_name(destination))
    source = {"path": path, "watched_directory": {"path": directory}}
    return {
        "kind": "EDS",
        "eds_cluster_config": {
            "service_name": destination.name,
            "eds_config": {"path_config_source": source, "resource_api_version": "V3"},
        },
    }


def file_name(destination: ServiceDestination) -> str:
    """Return the name of the file with the endpoints of a destination."""
    return f"{destination.name.replace('|', '_')}{SUFFIX}"


def write(destinations: Iterable[ServiceDestination], directory: str) -> int:
    """Write the endpoints of the destinations and return how many files changed.

    Each file is replaced as a whole, which is what Envoy notices. The file of a service that is gone loses its
    endpoints: a running Envoy still has the cluster. CaptureError if the directory cannot be written.
    """
    desired = {
        file_name(destination): _discovery_response(_load_assignment(destination))
        for destination in destinations
        if not destination.policy.is_passthrough
    }
    try:
        os.makedirs(directory, exist_ok=True)
        for name in os.listdir(directory):
            if name.startswith(PREFIX) and name.endswith(SUFFIX) and name not in desired:
                desired[name] = _without_endpoints(os.path.join(directory, name))
        return sum(_replace(os.path.join(directory, name), content) for name, content in desired.items())
    except OSError as error:
        raise CaptureError(f"cannot write endpoints to {directory}: {error.strerror}") from None


def _load_assignment(destination: ServiceDestination) -> Json:
    return load_assignment(destination.name, [(endpoint.address, endpoint.port) for endpoint in destination.endpoints])


def _discovery_response(load: Json) -> bytes:
    """Return a discovery response (service.discovery.v3.DiscoveryResponse) with one resource."""
    return json.dumps({"resources": [{"@type": RESOURCE, **load}]}, indent=1).encode() + b"\n"


def _without_endpoints(path: str) -> bytes:
    with open(path, "rb") as file:
        content = file.read()
    try:
        return _discovery_response(load_assignment(json.loads(content)["resources"][0]["cluster_name"], []))
    except (ValueError, LookupError, TypeError):
        return content  # not one of our files


def _replace(path: str, content: bytes) -> bool:
    """Replace a file by rename(2) unless it has this content; return whether it had another. All users may read it."""
    try:
        with open(path, "rb") as file:
            if file.read() == content:
                return False
    except OSError:
        pass
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    return True

"""Which access logs a sidecar writes."""

from sidecar.bootstrap import read_mesh_objects
from sidecar.documents import documents
from sidecar.objects import MeshPod
from sidecar.telemetry import access_logs

MESH = """
extensionProviders: [{name: envoy, envoyFileAccessLog: {path: /dev/stderr}}]
defaultProviders: {accessLogging: [envoy]}
"""
TELEMETRY = """---
kind: Telemetry
metadata: {name: all, namespace: istio-system}
spec: {accessLogging: [{}]}
"""


def test_a_provider_of_the_mesh_beats_the_built_in_one_of_its_name() -> None:
    for text in (MESH, MESH + TELEMETRY):
        objects = read_mesh_objects(list(documents(text, "mesh.yaml")))
        [log] = access_logs(objects.mesh, objects.telemetries, MeshPod())
        assert log.file.path == "/dev/stderr"

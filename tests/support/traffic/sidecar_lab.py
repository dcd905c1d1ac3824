"""A captured pod whose sidecar is a real Envoy with a rendered bootstrap, and endpoints behind a virtual address.

::

    pod: app (uid 1000) -> rules -> Envoy (uid 1337) -> peer: one application at three addresses
"""

import dataclasses
import http.client
import json
import socket
import time
from pathlib import Path
from typing import Any

from capture import apply, make_settings
from capture.settings.config import CaptureConfig
from pytest_netns import Client, Pod, PodPair, Process
from sidecar import endpoints
from sidecar.bootstrap import destinations, read_mesh_objects, render_bootstrap
from sidecar.documents import documents
from sidecar.objects import MeshPod
from support.processes.waiting import wait_until
from support.traffic.envoy_proxy import PROXY_UID, envoy_program
from support.traffic.proxies import start_app

ENDPOINTS = ("10.77.0.21", "10.77.0.22", "10.77.0.23")
APP_PORT = 8080
VIP, VIP6 = "10.96.94.35", "fd00:96::35"
PRODUCT_PAGE = MeshPod("default", "productpage", {"app": "productpage"})

SERVICES = f"""
kind: Service
metadata: {{name: details, namespace: default}}
spec:
  clusterIPs: [{VIP}, "{VIP6}"]
  selector: {{app: details}}
  ports: [{{name: http, port: 9080}}, {{name: http-empty, port: 9081}}, {{name: tcp, port: 3306}}]
---
kind: EndpointSlice
metadata: {{name: details-1, namespace: default, labels: {{kubernetes.io/service-name: details}}}}
addressType: IPv4
ports: [{{name: http, port: {APP_PORT}}}, {{name: tcp, port: {APP_PORT}}}]
endpoints:
- {{addresses: [{ENDPOINTS[0]}], targetRef: {{kind: Pod, name: one, namespace: default}}}}
- {{addresses: [{ENDPOINTS[1]}], targetRef: {{kind: Pod, name: two, namespace: default}}}}
- {{addresses: [{ENDPOINTS[2]}]}}
- {{addresses: [10.77.0.99], conditions: {{ready: false}}}}
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """An answer to an HTTP request."""

    status: int
    body: bytes

    @property
    def endpoint(self) -> str:
        """The address at which the application took the connection."""
        return str(json.loads(self.body)["local"][0])


def fetch(client: Client, address: str, port: int, *, path: str = "/", host: str = "", **headers: str) -> Reply:
    """Send one HTTP request."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with client.open_socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect((address, port))
        request = http.client.HTTPConnection(address, port)
        request.sock = connection
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request.request("GET", path, headers={"Host": host or f"details:{port}", **names})
        response = request.getresponse()
        return Reply(response.status, response.read())


def is_ready(client: Client) -> bool:
    """Return whether the sidecar of the client's pod serves."""
    return fetch(client, "127.0.0.1", 15021, path="/healthz/ready").status == 200


class Lab:
    """The captured pod, its endpoints, and the sidecar that runs now."""

    def __init__(self, pods: PodPair, directory: Path) -> None:
        self.pod: Pod = pods.pod
        self.peer: Pod = pods.peer
        self.directory = directory
        self.client = self.pod.client(1000)
        self.sidecar: Process | None = None
        for address in ENDPOINTS:
            self.peer.add_address(f"{address}/24")
        start_app(self.peer, APP_PORT)

    def capture(self, **options: Any) -> CaptureConfig:
        """Program the pod and return what the capture is."""
        applied = apply(make_settings(**options), self.pod.path)
        assert applied.changed
        return applied.config

    def bootstrap(self, config: CaptureConfig, *texts: str, pod: MeshPod = PRODUCT_PAGE, directory: str = "") -> Any:
        """Render the bootstrap for documents, and write their endpoints if there is a directory for them."""
        mesh_objects = read_mesh_objects(
            [document for number, text in enumerate(texts) for document in documents(text, f"text {number}")]
        )
        if directory:
            endpoints.write(destinations(config, mesh_objects, pod), directory)
        return render_bootstrap(config, mesh_objects, pod, directory=directory)

    def start(self, bootstrap: Any, *, validate: bool = False) -> Process:
        """Start Envoy in place of the one that runs, and return when it is ready."""
        self.stop()
        path = self.directory / "envoy.json"
        path.write_text(json.dumps(bootstrap), encoding="utf-8")
        command = [envoy_program(), "-c", str(path), "--log-level", "critical", "--disable-hot-restart"]
        if validate:
            self.pod.run([*command, "--mode", "validate"], uid=PROXY_UID, reads_everything=True)
        command += ["--concurrency", "1", "--file-flush-interval-msec", "20"]
        self.sidecar = self.pod.popen(command, uid=PROXY_UID, ports=[15021], timeout=30, reads_everything=True)
        wait_until(lambda: is_ready(self.client), 20, self.sidecar.output)
        return self.sidecar

    def stop(self) -> None:
        """Stop Envoy."""
        if self.sidecar is not None:
            self.sidecar.stop()

    def log(self, lines: int) -> list[str]:
        """Return the access log when it has so many lines, and nothing more has come for a while."""
        assert self.sidecar is not None
        give_up = time.monotonic() + 5
        while len(self.sidecar.output().splitlines()) < lines and time.monotonic() < give_up:
            time.sleep(0.01)
        time.sleep(0.1)
        return self.sidecar.output().splitlines()

    def spread(self, address: str, requests: int, **headers: str) -> dict[str, int]:
        """Return how many requests each endpoint got; a header's value ``{}`` is another one in each request."""
        counts = dict.fromkeys(ENDPOINTS, 0)
        for number in range(requests):
            given = {name: value.format(number) for name, value in headers.items()}
            counts[fetch(self.client, address, 9080, **given).endpoint] += 1
        return counts

"""Serves Prometheus and probes over HTTP: /metrics, /healthz (its loop runs), /readyz (pods are captured).

Two agents listen at one address during an update (SO_REUSEPORT), since both use the node's network.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from capture import __version__
from cni.agent.health import Health
from cni.agent.pod_state import GOOD_STATES

COUNTERS = {
    "installs": ("capture_installs", "Installations of plugin or entry, by result", "result"),
    "list_rewrites": ("capture_list_rewrites", "Rewrites of the network configuration by others", "writer"),
    "watch_restarts": ("capture_watch_restarts", "Watches of the API server that ended with an error", "reason"),
    "pod_questions": ("capture_pod_questions", "Questions of the plugin about a pod, by answer", "answer"),
    "defects": ("capture_agent_defects", "Parts of the agent that failed and were started again", "part"),
    "repairs": ("capture_repairs", "Repairs of pods, by action and result", "result"),
}
UPSTREAM_COUNTERS = {
    "installs": ("istio_cni_installs", "As capture_installs, by Istio's name", "result"),
    "repairs": ("istio_cni_repair_pods_repaired", "As capture_repairs, by Istio's name", "result"),
}
LISTED_PODS = 50


class AgentCollector(Collector):
    """Makes metrics of what the agent knows, at each scrape."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def collect(self) -> Iterator[Metric]:
        health = self._health
        info = GaugeMetricFamily("capture_agent_info", "The agent", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield _gauge("capture_agent_ready", "Whether pods that start now are captured", health.is_ready)
        installed = not any(part in health.as_plain()["problems"] for part in ("plugin", "entry", "loaded"))
        yield _gauge("capture_install_ready", "Whether the runtime calls the plugin", installed)
        yield _gauge("istio_cni_install_ready", "As capture_install_ready, by Istio's name", installed)
        yield _gauge("capture_api_connected", "Whether the API server answers", bool(health.fact("api_connected")))
        if expires := health.fact("token_expires"):
            yield _gauge("capture_token_expiry_seconds", "When the plugin's token ends, seconds since 1970", expires)
        yield from self._counter_metrics()
        yield from self._pod_metrics()

    def _counter_metrics(self) -> Iterable[Metric]:
        counts = self._health.counts()
        for table in (COUNTERS, UPSTREAM_COUNTERS):
            for name, (metric, text, label) in table.items():
                family = CounterMetricFamily(metric, text, labels=[label])
                for (counted, value), number in counts.items():
                    if counted == name:
                        family.add_metric([value], number)
                yield family

    def _pod_metrics(self) -> Iterable[Metric]:
        states = sorted((self._health.fact("pod_states") or {}).items())
        numbers = GaugeMetricFamily("capture_pods", "Pods of this node, by state", labels=["state"])
        for state, pods in states:
            numbers.add_metric([state], len(pods))
        yield numbers
        bad = GaugeMetricFamily(
            "capture_pod_problem", "Pods that are not captured as they should be", labels=["namespace", "pod", "state"]
        )
        listed = [(*pod.split("/", 1), state) for state, pods in states for pod in pods]
        for labels in [each for each in listed if each[-1] not in GOOD_STATES][:LISTED_PODS]:
            bad.add_metric(labels, 1)
        yield bad


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer
    timeout = 10

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        health = self.server.health
        if path == "/metrics":
            self._answer(200, CONTENT_TYPE_LATEST, generate_latest(self.server.registry))
        elif path == "/healthz":
            self._answer(200 if health.is_live else 503, "text/plain", b"ok\n" if health.is_live else b"stuck\n")
        elif path == "/readyz":
            self._answer(200 if health.is_ready else 503, "text/plain", b"ok\n" if health.is_ready else b"not ready\n")
        else:
            self._answer(404, "text/plain", b"/metrics, /healthz and /readyz are here\n")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name http.server gives it
        """Log nothing: scrapes are no news."""


class MetricsServer(ThreadingHTTPServer):
    """Serves in threads of its own from the moment it is made. ``address`` is HOST:PORT, IPv6 in brackets."""

    daemon_threads = True
    allow_reuse_port = True

    def __init__(self, address: str, health: Health) -> None:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.health = health
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(AgentCollector(health))
        super().__init__((host, int(port)), _Handler)
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()

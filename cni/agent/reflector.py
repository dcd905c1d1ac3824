"""Keeps a table of the node's pods like the API server's, whatever happens to the connection.

    list ──> watch ─┬─ the connection ends ──> watch from the last version that was heard
      ^             ├─ 410: too old ─────────> list, which also shows what is gone
      └─────────────┴─ 401, 5xx, silence ────> pause, 1 to 60 s with jitter, then the same

lightkube's own watch starts without a version after a 410, and then never shows what is gone; client-go's reflector
is the model of this one.
"""

from __future__ import annotations

import random
import threading
import time

from lightkube import Client

from cni.agent import api
from cni.agent.agent_log import AgentLog
from cni.agent.backoff import Backoff
from cni.agent.health import Health
from cni.agent.pods import Pods
from cni.http_response import GONE


class Reflector:
    """Fills ``pods`` with those of ``node`` until ``stop`` is set."""

    def __init__(self, client: Client, node: str, pods: Pods, health: Health, log: AgentLog) -> None:
        self.client, self.node, self.pods = client, node, pods
        self.health, self.log = health, log
        self._version = ""
        self._pauses = Backoff()
        self._is_failing = False

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            pause = self.run_once(stop)
            stop.wait(pause)

    def run_once(self, stop: threading.Event) -> float:
        """List if need be, and watch until that ends; return the seconds to wait before the next turn."""
        try:
            if not self._version:
                self._list()
            self._watch(stop)
        except api.API_ERRORS as error:
            return self._note_failure(error)
        return 0.0

    def _list(self) -> None:
        pods, version = api.list_pods(self.client, self.node)
        self.pods.replace_all(pods)
        self._version = version
        self._note_success()

    def _watch(self, stop: threading.Event) -> None:
        for kind, pod in api.watch_pods(self.client, self.node, self._version):
            self._note_success()
            self._version = pod["metadata"]["resourceVersion"]
            if kind == "BOOKMARK":
                self.pods.note_contact()
            elif kind == "DELETED":
                self.pods.remove(pod)
            else:
                self.pods.store(pod)
            if stop.is_set():
                return

    def _note_success(self) -> None:
        self._is_failing = False
        self._pauses.reset()
        if self.health.fact("api_away_since") or self.health.fact("api_connected") is None:
            self.health.note(api_connected=True, api_away_since=None, api_problem="")
            self.log.info("the API server answers")

    def _note_failure(self, error: Exception) -> float:
        """Note a failure; return the pause after it."""
        code = api.http_status(error)
        self.health.count("watch_restarts", str(code or type(error).__name__))
        if code == GONE:
            self._version = ""
            return 0.0
        if self._is_failing:  # a watch that ends is no news, a second failure is
            self._is_away(api.error_text(error))
        self._is_failing = True
        return self._pauses.pause() * random.uniform(0.5, 1.0)  # noqa: S311  # so that a thousand agents do not call together

    def _is_away(self, problem: str) -> None:
        self.pods.note_outage()
        self._version = ""
        if not self.health.fact("api_away_since"):
            self.health.note(api_connected=False, api_away_since=time.time())
            self.log.warn("the API server does not answer", problem=problem)
        self.health.note(api_problem=problem)

"""The agent's process: its threads, and what happens to them.

    main        installation: directories, entry, credentials        (this thread; liveness is that its loop runs)
    reflector   the node's pods, from the API server
    socket      answers the plugin and people
    log         passes the plugin's log on
    audit       looks at the node's pods, and repairs them
    taints      takes the node's taints off, once
    metrics     Prometheus and probes

SIGTERM leaves everything in place: an update, a drain and a reboot must open no gap. Only when the agent's DaemonSet
is gone, everything goes.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time

from capture.system.capabilities import missing_capabilities
from capture.system.netns import own_namespace
from cni import conf, deferred_removal
from cni.agent import uninstall
from cni.agent.agent_log import AgentLog
from cni.agent.backoff import Backoff
from cni.agent.handover import Handover
from cni.agent.health import Health
from cni.agent.installation import INSTALLED_PARTS, Installation
from cni.agent.log_follower import LogFollower
from cni.agent.options import RUNTIME_SOCKETS
from cni.agent.pods import Pods
from cni.agent.runtime import find_runtime
from cni.agent.server import AgentServer
from cni.pod import Identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lightkube import Client

    from cni.agent.audit import Audit
    from cni.agent.options import Options

EXIT_STRANDED = 70
SWITCH_INTERVAL = 0.0005
"""Seconds that another thread may compute before the main one puts the entry back; Python's own default is 5 ms."""
COLLECTIONS = (20_000, 20, 100)
"""New objects until the young are searched for cycles, and of such searches until those that are older are as well."""
NEEDED_CAPABILITIES = ("NET_ADMIN", "SYS_ADMIN")
"""For entering the network namespaces of pods and reading their rules (linux/capability.h)."""


class Agent:
    """Everything that runs on the node; ``run`` returns when SIGTERM or SIGINT has come."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.log = AgentLog(options.log_level)
        self.health = Health(INSTALLED_PARTS)
        self.pods = Pods()
        self.stop = threading.Event()
        self.runtime = find_runtime(options.runtime_socket, RUNTIME_SOCKETS)
        self.client = self._connected_client()
        self.handover = Handover(os.path.dirname(options.socket), f"{os.getpid()} {time.time()}")
        self.installation = Installation(options, self.health, self.log, self.runtime, self._publish)
        self.audit = self._make_audit()
        self.health.note(node=options.node, api_connected=None)

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end_on_signal)
        deferred_removal.cancel_removal()
        sys.setswitchinterval(SWITCH_INTERVAL)
        answers = {
            "pod": self._answer_pod,
            "pods": self._answer_pods,
            "status": lambda _question: self.status(),
            "probe": lambda _question: {"ready": self.health.is_ready, "live": self.health.is_live},
        }
        server = AgentServer(self.options.socket, answers)
        self._start_threads()
        self.log.info("started", node=self.options.node, runtime=self.runtime.socket if self.runtime else "")
        self.installation.run(self.stop, self.handover)
        self._leave_node()
        server.close()
        self.handover.close()
        return 0

    def status(self) -> dict[str, Any]:
        return self.health.as_plain() | {"acts": self.handover.is_acting, "pods_known": len(self.pods.all())}

    # --- threads --------------------------------------------------------------------------------------------

    def _start_threads(self) -> None:
        if self.options.metrics_address:
            from cni.agent.metrics import MetricsServer

            MetricsServer(self.options.metrics_address, self.health)
        if log_file := self.options.entry.get("log_file"):
            follower = LogFollower(log_file)
            self._start("log", lambda: follower.run(self.log, self.stop))
        if self.client is not None:
            from cni.agent.reflector import Reflector

            reflector = Reflector(self.client, self.options.node, self.pods, self.health, self.log)
            self._start("reflector", lambda: reflector.run(self.stop))
            if self.options.taints:
                self._start("taints", self._remove_taints)
        if self.audit is not None:
            self._start("audit", self._run_audit)

    def _start(self, name: str, work: Callable[[], None]) -> None:
        """Let a thread do the work, and repeat it when a defect ends it."""

        def run() -> None:
            pauses = Backoff()
            while not self.stop.is_set():
                try:
                    work()
                except Exception as defect:  # noqa: BLE001  # one part must not take the others down
                    self.log.error(f"defect in {name}: {type(defect).__name__}: {defect}")
                    self.health.count("defects", name)
                    self.stop.wait(pauses.pause())

        threading.Thread(target=run, name=name, daemon=True).start()

    def _make_audit(self) -> Audit | None:
        """Return what looks at the node's pods; None where no option requests that, or it cannot be done."""
        lacking = missing_capabilities(*NEEDED_CAPABILITIES)
        if not (self.options.audit and self.options.node and self.runtime) or lacking:
            self.health.note(audit=f"off: missing capability {', '.join(lacking)}" if lacking else "off")
            return None
        from cni.agent.audit import Audit
        from cni.agent.pod_warnings import WarningPublisher
        from cni.agent.repair import Repair

        self.health.note(audit="on")
        configuration = conf.parse_configuration(self.installation.entry())
        audit = Audit(self.runtime, self.pods, configuration, self.health, self.log)
        audit.on_warnings = WarningPublisher(self.client, self.log)
        audit.on_change = Repair(self.options, configuration, self.client, self.health, self.log, audit.look_at_pod)
        return audit

    def _run_audit(self) -> None:
        """Audit until the end; a thread that cannot leave a pod's namespace ends the process."""
        home = own_namespace()
        try:
            if self.audit is not None and self.pods.wait_until_filled(self.stop):
                _tune_garbage_collection()
                self.audit.run(self.stop)
        finally:
            if not os.path.samestat(home, own_namespace()):
                os._exit(EXIT_STRANDED)

    def _remove_taints(self) -> None:
        """Wait until pods are captured, then take the taints off the node."""
        from cni.agent import taint

        pauses, has_warned = Backoff(), False
        pause = pauses.pause()
        while self.client is not None and not self.stop.wait(pause):
            if not self.health.is_ready:
                continue
            done, problem = taint.remove_taints(self.client, self.options.node, self.options.taints)
            if done:
                self.log.info("the node has none of the taints", taints=self.options.taints)
                self.stop.wait()
            elif not has_warned:
                has_warned = True
                self.log.warn("the taints cannot be removed", problem=problem)
            pause = pauses.pause()

    # --- answers and messages -------------------------------------------------------------------------------

    def _answer_pod(self, question: dict[str, Any]) -> object:
        namespace, name, uid = (question.get(key) for key in ("namespace", "name", "uid"))
        if not (isinstance(namespace, str) and isinstance(name, str) and isinstance(uid, str)):
            return {"error": "expected the texts 'namespace', 'name' and 'uid'"}
        pod = self.pods.find(Identity(namespace, name, uid))
        self.health.count("pod_questions", "known" if pod else "unknown")
        return {"pod": pod}

    def _answer_pods(self, question: dict[str, Any]) -> object:
        namespace, name = str(question.get("namespace", "")), str(question.get("name", ""))
        return {"pods": self.audit.as_plain(namespace, name) if self.audit else [], "audit": self.health.fact("audit")}

    def _publish(self, reason: str, message: str) -> None:
        if self.client is not None:
            from cni.agent import events

            threading.Thread(
                target=events.publish_on_node, args=(self.client, self.options.node, reason, message)
            ).start()

    # --- the end --------------------------------------------------------------------------------------------

    def _end_on_signal(self, _number: int, _frame: object) -> None:
        self.stop.set()
        self.installation.directories.wake()

    def _leave_node(self) -> None:
        """Leave everything in place, unless the agent's DaemonSet is gone."""
        if self.client is None or not self.options.daemon_set:
            return
        if not uninstall.is_gone(self.client, self.options.daemon_set, self.options.node):
            self.log.info("ending; plugin and entry stay", daemon_set=self.options.daemon_set)
            return
        if not self.handover.update():
            self.log.info("ending; another agent of this node goes on")
            return
        for change in uninstall.uninstall(self.options, self.runtime, lambda: not self.handover.update()):
            self.log.info("uninstalled", what=change)

    def _connected_client(self) -> Client | None:
        if not self.options.node:
            return None
        from cni.agent import api

        return api.connect(self.options.service_account)


def _tune_garbage_collection() -> None:
    """Keep the collector of cycles off what stays, and let it visit the pods, which have no cycles, more rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTIONS)

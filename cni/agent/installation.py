"""Puts the plugin and its entry on the node, and the entry back whenever another program takes it out.

    directories ──> look ─┬─ entry in place ──> wait
                          └─ lost ──> restore at once; after five times a minute: pause, and name the rival

The plugin is copied and tried once at the start, and when its file has changed: hashing it takes 60 ms, writing the
entry 3 ms, and a runtime loads a rival's list within 1 ms.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from capture.errors import CaptureError
from cni import install as installer
from cni.agent import credentials
from cni.agent.agent_log import AgentLog
from cni.agent.directories import Directories
from cni.agent.handover import Handover
from cni.agent.health import Health
from cni.agent.options import Options
from cni.agent.rewrite_conflict import RestoreBackoff
from cni.agent.runtime import RuntimeClient, RuntimeSilentError
from cni.agent.writers import ConfigurationWriters, name_of_rival
from cni.conf import POD_SOURCES, RUNTIME
from cni.install import DesiredConfiguration
from cni.install_error import install_error_for
from cni.networks import OWN_CONFIG_MARK, PLUGIN, read_networks
from cni.tokens import token_in

IDLE_INTERVAL = 10.0
"""Seconds between looks when nothing happens."""
HANDOVER_INTERVAL = 1.0
"""Seconds between looks of an agent that waits for its turn."""
RUNTIME_TIMEOUT = 15.0
"""Seconds for a runtime to load what is in its directory."""

INSTALLED_PARTS = ("plugin", "entry", "loaded", "credentials")


class Installation:
    """The plugin on the node, kept in place. ``publish`` makes an Event for the owner of the node."""

    def __init__(
        self,
        options: Options,
        health: Health,
        log: AgentLog,
        runtime: RuntimeClient | None = None,
        publish: Callable[[str, str], None] = lambda _reason, _message: None,
    ) -> None:
        self.options = options
        self.health = health
        self.log = log
        self.runtime = runtime
        self.publish = publish
        self.conflict = RestoreBackoff()
        self.directories = Directories(
            [options.conf_dir, options.bin_dir, options.service_account, os.path.dirname(options.socket)]
        )
        self.writers = ConfigurationWriters()
        self._plugin: tuple[int, ...] = ()
        self._restore_at = 0.0
        self._was_in_place = False
        self._unloaded_since: float | None = None

    def run(self, stop: threading.Event, handover: Handover) -> None:
        """Keep everything in place until ``stop``, which leaves it there; only while this agent acts."""
        while not stop.is_set():
            self.health.note_loop()
            if handover.update():
                self.health.report("handover")
                self.run_once(time.monotonic())
                self.directories.wait(self._pause(time.monotonic()))
            else:
                self.health.report("handover", "another agent of this node acts")
                self.directories.wait(HANDOVER_INTERVAL)

    def run_once(self, now: float) -> None:
        """Look at everything once, and repair what is not as it should be."""
        self._keep_entry(now)  # first: between a rival's rewrite and this, pods run uncaptured
        self.writers.watch(self.options.conf_dir)
        self._renew_credentials()
        self._keep_plugin()
        self._keep_entry(now)
        self._check_loaded(now)

    def _pause(self, now: float) -> float:
        if self._restore_at > now:
            return self._restore_at - now
        return 0.5 if self._unloaded_since is not None else IDLE_INTERVAL

    # --- the plugin -----------------------------------------------------------------------------------------

    def _keep_plugin(self) -> None:
        link = os.path.join(self.options.bin_dir, PLUGIN)
        version = _version_of(link)
        if version and version == self._plugin:
            return
        try:
            changes = installer.install(self.options.plugin, self.options.bin_dir, self._desired_configuration())
        except CaptureError as error:
            self._report_failure("plugin", error)
            return
        for change in changes:
            self.log.info("installed", path=change.path, what=change.what)
        self._plugin = _version_of(link)
        self._was_in_place = True
        self.health.report("plugin")
        self.health.count("installs", "success")

    # --- the entry ------------------------------------------------------------------------------------------

    def entry(self) -> dict[str, object]:
        """Return what goes into the network configuration."""
        entry = dict(self.options.entry)
        if self.options.node:
            entry |= {"kubeconfig": self.options.kubeconfig, "agent_socket": self.options.socket}
        entry.setdefault("pod_sources", list(POD_SOURCES if self.options.node else (RUNTIME,)))
        return entry

    def _keep_entry(self, now: float) -> None:
        if not self._plugin:
            return  # an entry that names no plugin would stop every pod of the node
        try:
            if self._is_in_place():
                if self._follow_main_list():
                    self._note_in_place(now)
            elif self._was_in_place:
                self._answer_loss(now)
            elif now >= self._restore_at:
                self._restore_entry(now)
        except FileNotFoundError:  # a file or the directory went while it was read: the watch reports the next one
            self._was_in_place = False
        except (CaptureError, OSError) as error:
            self._was_in_place = False
            explained = install_error_for(error, self.options.conf_dir) if isinstance(error, OSError) else error
            self._report_failure("entry", explained)

    def _restore_entry(self, now: float) -> None:
        changes = installer.put_entry(self._desired_configuration(), is_urgent=True)
        self._was_in_place = True
        for change in changes:
            self.log.info("entry restored", path=change.path, what=change.what)
        self.health.note(restored=time.time())
        self._note_in_place(now)

    def _desired_configuration(self) -> DesiredConfiguration:
        return DesiredConfiguration(self.options.conf_dir, self.entry(), self.options.own_config, self.options.choice)

    def _follow_main_list(self) -> bool:
        """Let a list of our own be what the main one is now: an address range or an MTU may have changed.

        Return False if the main one is gone: then our own goes, too, since a network that its owner has removed would
        go on in it.
        """
        options = self.options
        if not options.own_config:
            return True
        if all(network.is_our_own for network in read_networks(options.conf_dir)):
            changes = installer.uninstall(options.bin_dir, options.conf_dir, keep_plugin=True)
            self._was_in_place = False
            self.health.report("entry", "the main network configuration is gone, and with it the list of our own")
        else:
            changes = installer.put_entry(self._desired_configuration())
        for change in changes:
            self.log.info("list of our own renewed", path=change.path, what=change.what)
        return self._was_in_place

    def _is_in_place(self) -> bool:
        """Return whether the list that a runtime takes has exactly our entry; reading alone, 0.1 ms."""
        desired = {"type": PLUGIN} | self.entry()
        if self.options.own_config:
            desired[OWN_CONFIG_MARK] = True
        taken = installer.selected_network(self.options.conf_dir, self.options.choice)
        return taken is not None and taken.entries == [desired]

    def _note_in_place(self, now: float) -> None:
        if self.conflict.note_quiet(now):
            self.log.info("no program has rewritten the network configuration for a minute")
        if not self.conflict.is_lasting:
            self.health.report("entry")

    def _answer_loss(self, now: float) -> None:
        """Put the entry back, at once unless another program keeps removing it; then publish which one did."""
        self._was_in_place = False
        pause = self.conflict.note_loss(now)
        self._restore_at = now + pause
        if not pause:
            self._restore_entry(now)
        rival = name_of_rival(self.options.conf_dir, self.writers)
        self.health.count("list_rewrites", rival)
        self.health.note(lost=time.time(), rival=rival)
        self.log.warn("another program rewrote the network configuration", rival=rival, pause_seconds=pause)
        if pause:
            self._publish_conflict(rival, pause)

    def _publish_conflict(self, rival: str, pause: float) -> None:
        problem = (
            f"{rival} keeps rewriting the network configuration in {self.options.conf_dir}: the entry is put back "
            f"after {pause:g} s, and until then pods start uncaptured. Make it leave other plugins in (cilium: "
            "cni.exclusive=false), or use a list of our own (--own-config; chart: cni.ownConfig)."
        )
        if self.health.report("entry", problem):
            self.publish("CaptureListRewritten", problem)

    # --- what the runtime has loaded ------------------------------------------------------------------------

    def _check_loaded(self, now: float) -> None:
        if self.runtime is None:
            self.health.report("loaded")
            return
        try:
            loaded = self.runtime.loaded()
        except RuntimeSilentError as error:
            self.health.report("loaded", f"cannot tell what the container runtime has loaded: {error}")
            return
        if loaded is None:  # this runtime does not report it: the file is all there is
            self.health.report("loaded")
            return
        self.health.note(loaded={"network": loaded.network, "plugins": loaded.plugins, "directory": loaded.conf_dir})
        if PLUGIN in loaded.plugins:
            self._unloaded_since = None
            self.health.note(loaded_at=time.time())
            self.health.report("loaded")
            return
        self._unloaded_since = now if self._unloaded_since is None else self._unloaded_since
        self.health.report("loaded", self._why_not_loaded(loaded.conf_dir, loaded.network, loaded.bin_dirs, now))

    def _why_not_loaded(self, conf_dir: str, network: str, bin_dirs: tuple[str, ...], now: float) -> str:
        if conf_dir and os.path.normpath(conf_dir) != os.path.normpath(self.options.conf_dir):
            return (
                f"the container runtime reads {conf_dir}, and the entry is in {self.options.conf_dir}: "
                f"name its directory (--conf-dir; chart: cni.confDir)"
            )
        if bin_dirs and os.path.normpath(self.options.bin_dir) not in map(os.path.normpath, bin_dirs):
            return (
                f"the container runtime looks for plugins in {', '.join(bin_dirs)}, and {PLUGIN} is in "
                f"{self.options.bin_dir}: name its directory (--bin-dir; chart: cni.binDir)"
            )
        waited = now - (self._unloaded_since or now)
        hint = f"; after {waited:.0f} s: look into its log" if waited > RUNTIME_TIMEOUT else ""
        return f"the container runtime has loaded the network {network or '(none)'} without {PLUGIN}{hint}"

    # --- credentials ----------------------------------------------------------------------------------------

    def _renew_credentials(self) -> None:
        if not self.options.node:
            self.health.report("credentials")
            return
        try:
            written = credentials.renew(self.options)
            token = token_in(os.path.join(self.options.credentials, "token"))
        except OSError as error:
            self.health.report("credentials", f"{error.filename}: {error.strerror}")
            return
        for path in written:
            self.log.info("credentials written", path=path)
        self.health.note(token_expires=token.expires)
        short = token.is_nearly_expired(time.time())
        self.health.report("credentials", "the token is about to end: kubelet does not renew it" if short else "")

    def _report_failure(self, part: str, error: CaptureError) -> None:
        self.health.count("installs", "failure")
        if self.health.report(part, f"{error.message}. {error.remedy}".strip(". ")):
            self.log.error(error.message, remedy=error.remedy)
            self.publish("CaptureNotInstalled", str(error))


def _version_of(path: str) -> tuple[int, ...]:
    """Return what distinguishes one version of a file from another, behind links; () if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

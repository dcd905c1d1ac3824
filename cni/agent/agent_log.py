"""The agent's log: JSON lines on standard output, in the form of the plugin's own."""

from __future__ import annotations

import os

from cni.log import PluginLog


class AgentLog(PluginLog):
    """Writes lines of at least ``level``; each is one write(2), so that the lines of threads do not mix."""

    def __init__(self, level: str = "info", descriptor: int = 1) -> None:
        super().__init__(f"descriptor {descriptor}", level, {"command": "agent"})
        self._descriptor = descriptor

    def _durations(self) -> dict[str, object]:
        return {}  # the agent runs for months

    def pass_on(self, line: bytes) -> None:
        """Write a line that is JSON already, such as one of the plugin's."""
        try:
            os.write(self._descriptor, line)
        except OSError:  # the reader of the log is gone: pods matter more
            return

"""The agent's log in memory: tests read what it tells, and how often."""

import json
from typing import Any

from cni.agent.agent_log import AgentLog


class AgentLines(AgentLog):
    """Keeps its lines."""

    def __init__(self) -> None:
        super().__init__("debug", descriptor=-1)
        self.lines: list[dict[str, Any]] = []

    def pass_on(self, line: bytes) -> None:
        self.lines.append(json.loads(line))

    @property
    def messages(self) -> list[str]:
        """What was told, in order."""
        return [line["message"] for line in self.lines]

"""A plugin that does what an installer can see of one: it starts, and answers VERSION."""

import json
from pathlib import Path

from cni.protocol import SUPPORTED_VERSIONS

ANSWER = json.dumps({"cniVersion": "1.0.0", "supportedVersions": SUPPORTED_VERSIONS})
SCRIPT = f"#!/bin/sh\necho '{ANSWER}'\n"


def write_plugin(path: Path, comment: str = "") -> None:
    """Write the plugin; a comment makes it another one that does the same."""
    path.write_text(f"{SCRIPT}# {comment}\n" if comment else SCRIPT)
    path.chmod(0o755)

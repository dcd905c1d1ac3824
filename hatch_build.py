"""What is made while the package is built: manual pages, completions, and a description whose links work elsewhere."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface


class SharedFiles(BuildHookInterface):  # type: ignore[type-arg, misc]  # hatchling is there when it builds
    """Puts manual pages and completions under share/ of what the wheel is installed into."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make them, for a wheel of this version; an editable install does without."""
        if self.target_name != "wheel" or version == "editable":
            return
        sys.path[:0] = [self.root, f"{self.root}/scripts"]
        import shared_files

        self._directory = tempfile.TemporaryDirectory()
        written = shared_files.write(Path(self._directory.name))
        build_data["shared_data"] |= {str(path): f"share/{place}" for path, place in written.items()}

    def finalize(self, *_: object) -> None:
        """Remove what was only made to be packed."""
        if hasattr(self, "_directory"):
            self._directory.cleanup()


class Addresses(MetadataHookInterface):  # type: ignore[misc]  # as above
    """What names the published repository: the package's addresses, and README.md with links that work elsewhere."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Set both from ``repository`` in pyproject.toml."""
        repository = self.config["repository"].rstrip("/")
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, repository)}
        metadata["urls"] = {
            "Repository": repository,
            "Documentation": f"{repository}/blob/main/README.md",
            "Changelog": f"{repository}/blob/main/CHANGELOG.md",
            "Issues": f"{repository}/issues",
        }


def absolute(text: str, repository: str) -> str:
    """Return markdown in which every relative link begins at the repository's main branch."""
    return re.sub(r"(\]\(|src=\")(?!https?:|#)([^)\"]+)", rf"\1{repository}/blob/main/\2", text)

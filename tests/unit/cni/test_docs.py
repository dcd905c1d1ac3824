"""docs/cni.md explains every key."""

import re
from pathlib import Path

import pytest

from cni import conf, protocol, status

TEXT = Path(__file__).parents[3].joinpath("docs", "cni.md").read_text()


def rows(heading: str) -> set[str]:
    """Return the first cells of the table under a heading, without backquotes."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return {cell.strip("` ") for cell in re.findall(r"^\|([^|]+)\|", section, re.MULTILINE)} - {"---"}


def test_every_key_is_explained() -> None:
    own = {"capabilities", *conf.CAPTURE_OPTIONS, *conf.Configuration.__match_args__} - {"settings", "annotations"}
    assert rows("Configuration") - {"key"} == own
    assert own - status.KNOWN_KEYS == set()
    assert status.KNOWN_KEYS - own == {"type", "name", "cniVersion", "args"}


def test_the_examples_are_what_the_plugin_takes() -> None:
    from capture.model.json_text import decode_json

    examples = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        plain = decode_json(example)
        entry = plain["plugins"][-1] if "plugins" in plain else plain
        if entry.get("type") == "capture-cni":
            conf.parse_configuration(entry)


@pytest.mark.parametrize("version", protocol.SUPPORTED_VERSIONS)
def test_every_version_is_named(version: str) -> None:
    assert version in TEXT

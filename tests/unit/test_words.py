"""The words that CONTRIBUTING.md rules out are nowhere: not in code, messages and pages, nor as a part of a name."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("capture", "cni", "initcontainer", "injection", "sidecar", "scripts", "bench", "tests", "docs", "deploy")
SUFFIXES = {".py", ".md", ".yaml", ".json", ".txt", ""}
RULE = re.compile(r" Not:\s([^.(]*)")
KEPT = re.compile(r'(["`])(?:(?:as_)?asked(?:_port)?|nobody)\1')
"""Keys of JSON, which programs read, and a user that the kernel calls so."""


def test_words_that_are_ruled_out_are_nowhere() -> None:
    rule = RULE.search((ROOT / "CONTRIBUTING.md").read_text())
    assert rule is not None
    words = re.findall(r"\w+", rule[1])
    assert len(words) == 10
    ruled_out = re.compile(rf"(?<![a-z])(?:{'|'.join(words)})s?(?![a-z])", re.IGNORECASE)
    files = [path for name in FOLDERS for path in (ROOT / name).rglob("*") if path.suffix in SUFFIXES]
    found = {}
    for path in {*ROOT.glob("*.md"), *filter(Path.is_file, files)} - {Path(__file__)}:
        text = KEPT.sub("", RULE.sub("", f"{path.name} {path.read_text(errors='replace')}"))
        if match := ruled_out.search(text):
            found[str(path.relative_to(ROOT))] = match[0]
    assert found == {}

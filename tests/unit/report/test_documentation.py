"""The pages of docs/: those that come from code are up to date, every link leads somewhere."""

import ast
import errno
import http
import os
import re
from collections.abc import Callable, Iterator
from inspect import unwrap
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import docs_pages
import pytest

from capture import errors
from capture.analysis.cause_text import CAUSE_TEXTS
from capture.report import output
from cni import codes, protocol
from cni.agent import kubectl

ROOT = docs_pages.DOCS.parent
PACKAGES = ("capture", "cni", "initcontainer")
PAGES = sorted([*ROOT.glob("*.md"), *docs_pages.DOCS.rglob("*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
PLACEHOLDER = re.compile(r"\.\.\.|\b[A-Z]{3,}\b")
VALUE = re.compile(r"rule \d+ is (?:missing|unexpected)|'[^']*'?|\S*[\d/]\S*|\b[a-z]+(?:-[a-z]+)+\b|(?:^|(?<= ))-\w .*")
"""Values on a page: a difference, what is quoted, has a digit, or is a name with hyphens, and a rule."""
NOT_FOR_READERS = re.compile(
    r"/(?:work|root|tmp)/|pypi\.org|pythonhosted|docker\.io|ghcr\.io|quay\.io|proxy\.golang", re.IGNORECASE
)


def test_pages_that_come_from_code_are_up_to_date() -> None:
    stale = [name for name, text in docs_pages.generated_pages().items() if read(docs_pages.DOCS / name) != text]
    assert stale == [], "run: .venv/bin/python scripts/docs_pages.py"


def test_no_page_is_left_of_a_command_that_is_gone() -> None:
    found = {f"commands/{path.name}" for path in (docs_pages.DOCS / "commands").glob("*.md")}
    assert found == {name for name in docs_pages.generated_pages() if name.startswith("commands/")}


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


@pytest.mark.parametrize(("kind", "modules"), [("exit", (errors, output)), ("cni", (codes, protocol))])
def test_every_code_has_its_page(kind: str, modules: tuple[ModuleType, ...]) -> None:
    numbers = {
        value
        for module in modules
        for name, value in vars(module).items()
        if name.isupper() and type(value) is int and not name.startswith("MAX_")
    }
    assert docs_pages.codes_of(kind) == sorted(numbers)


def test_the_commands_of_codes_4_and_5_are_those_whose_code_ends_with_them() -> None:
    """What two commands run are other commands, in another process or by name: they have the codes of these."""
    found = {words: codes_in(command.callback) for words, command in docs_pages.commands()}
    for words in ("capture node pod", "kubectl capture"):
        found[words] = set().union(*(found[f"capture {name}"] for name in kubectl.CAPTURE_COMMANDS))
    for code in (errors.EXIT_DRIFT, errors.EXIT_UNKNOWN):
        assert {words for words, codes in found.items() if code in codes} == set(docs_pages.ENDING_WITH[code])
    assert {code for codes in found.values() for code in codes} <= {*docs_pages.ENDING_WITH, 0, 1, 2, 3}


def codes_in(command: Callable[..., Any] | None) -> set[int]:
    """Return the exit codes that a function names, or one that it calls by a name of its module."""
    found, seen, left = set[int](), set[Any](), [command]
    while left:
        called = unwrap(function) if callable(function := left.pop()) else None
        if isinstance(called, FunctionType) and called not in seen:
            seen.add(called)
            named = {name: called.__globals__.get(name) for name in called.__code__.co_names}
            found |= {value for name, value in named.items() if name.startswith("EXIT_") and isinstance(value, int)}
            left += named.values()
    return found


def test_messages_on_pages_of_codes_are_in_the_code() -> None:
    """Each part between "...", NAMES and values is a part of one text in the code; another word in it is noticed."""
    texts = texts_in_code()
    found = [
        (page.name, message)
        for page in (docs_pages.DOCS / "errors").glob("*.md")
        for row in re.findall(r"^\| (.*?`.*?) \| ", read(page), re.MULTILINE)
        for message in re.findall(r"`([^`]+)`", row)
    ]

    assert [each for each in found if not is_said(each[1], texts)] == []
    words = re.compile(r"(?<![\w./-])[a-z]{3,}(?![\w./-])")
    changed = [words.sub("potato", message, 1) for _, message in found if words.search(message)]
    assert len(changed) > 40
    assert [message for message in changed if is_said(message, texts)] == []


def texts_in_code() -> str:
    """Return the texts in the code, and those of libc and HTTP, in lines and in lower case.

    They have "{}" for what they are filled with.
    """
    trees = [ast.parse(read(path)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    found = {"no such option"}  # of click
    found |= {os.strerror(number) for number in errno.errorcode} | {each.phrase for each in http.HTTPStatus}
    for node in (node for tree in trees for node in ast.walk(tree)):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts))
    return "\n".join(found).lower()


def is_said(message: str, texts: str) -> bool:
    """Return whether the code has each part of a message: as it is, or with "{}" in place of values."""
    parts = [part.strip(" '") for text in PLACEHOLDER.split(message) for part in re.split(": |, ", text.lower())]
    return all(part in texts or VALUE.sub("{}", part).strip(" {}:'()") in texts for part in filter(None, parts))


def test_pages_list_every_kind_of_cause_and_of_difference() -> None:
    impediments = set(re.findall(r'Impediment\(\s*"([\w-]+)"', read(ROOT / "capture/state/impediments.py")))
    differences = literal("capture/analysis/compare.py", "DifferenceKind")

    assert "sysctl" in impediments
    assert listed_kinds("why") == {kind for kind, _ in CAUSE_TEXTS} | impediments
    assert listed_kinds("verify") >= differences | impediments


def literal(path: str, name: str) -> set[str]:
    """Return the values of a type that only type checkers see."""
    found = re.search(rf"\b{name} = Literal\[(.*)\]", read(ROOT / path))
    assert found
    return set(re.findall(r'"([\w -]+)"', found[1]))


def listed_kinds(command: str) -> set[str]:
    listed = read(docs_pages.DOCS / "commands" / f"{command}.md").partition("\nKinds:")[2]
    return set(re.findall(r"`([\w -]+)`", listed.partition("\n\nVerify counts")[0]))


def test_links_lead_somewhere() -> None:
    dead = [
        f"{page.relative_to(ROOT)}: {path}#{anchor}"
        for page in PAGES
        for path, anchor in LINK.findall(without_code(read(page)))
        if not leads_somewhere(page, path, anchor)
    ]
    assert dead == []


def leads_somewhere(page: Path, path: str, anchor: str) -> bool:
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or anchor in anchors(read(target)))


def anchors(text: str) -> Iterator[str]:
    """Yield what headings can be linked by."""
    for heading in re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def test_no_page_names_a_registry_or_a_place_of_the_machine_that_wrote_it() -> None:
    assert [(page.name, found) for page in PAGES if (found := NOT_FOR_READERS.findall(read(page)))] == []

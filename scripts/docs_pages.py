"""Write the pages of docs/ that come from code: options, one page for each command, one for each code.

    docs/options.md          the option table
    docs/commands/*.md       the commands' help; what is below the marker was written by hand and stays
    docs/errors.md           every exit code and error code, with a link to
    docs/errors/*.md         a page for each

A test compares these texts with the pages.
"""

from __future__ import annotations

import re
import sys
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING

import click
from shared_files import PLUGIN

from capture.cli.group import COMMANDS, capture
from capture.cli.options import CaptureCommand, SettingOption
from capture.report.exit_codes import EXIT_CODES, CodeText
from capture.report.option_texts import as_markdown
from capture.settings.keywords import OPTIONS_BY_NAME
from cni.agent.kubectl import capture_pod
from cni.code_texts import CNI_CODES
from initcontainer.help import USAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).resolve().parents[1] / "docs"
HERE = "<!-- written by scripts/docs_pages.py from the command; what is below the end of this part is not -->\n"
END = "<!-- end of this part -->\n"


def main() -> int:
    """Write all of them, and remove pages of codes that are gone."""
    written = pages()
    for name, text in written.items():
        path = DOCS / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in (DOCS / "errors").glob("*.md"):
        if f"errors/{path.name}" not in written:
            path.unlink()
    return 0


def pages() -> dict[str, str]:
    """Return each page by its place under docs/."""
    found = {"options.md": as_markdown({option: name for name, option in OPTIONS_BY_NAME.items()})}
    for name, text in _command_pages():
        path = DOCS / "commands" / f"{name}.md"
        by_hand = path.read_text(encoding="utf-8").partition(END)[2] if path.exists() else ""
        found[f"commands/{name}.md"] = f"{text}\n{END}{by_hand}"
    return found | dict(_code_pages())


# --- commands ----------------------------------------------------------------------------------------


def _command_pages() -> Iterator[tuple[str, str]]:
    yield "istio-init", f"# istio-init\n\n{HERE}\n{_usage_of_istio_init()}"
    for name in COMMANDS:
        command = capture.get_command(click.Context(capture), name)
        if isinstance(command, click.Group):
            for below, each in command.commands.items():
                yield f"{name}-{below}", _command_page(f"capture {name} {below}", each)
        elif command:
            yield name, _command_page(f"capture {name}", command)
    yield "kubectl-capture", _command_page("kubectl capture", capture_pod)
    yield (
        "capture-cni",
        f"# capture-cni\n\n{HERE}\n{PLUGIN.replace('docs/cni.md has', '[The CNI plugin](../cni.md) has')}",
    )


def _usage_of_istio_init() -> str:
    usage, purpose, examples, *_ = USAGE.split("\n\n")
    return "\n".join(
        (
            f"{purpose}\n",
            f"```text\n{usage.removeprefix('Usage: ')}\n```\n",
            f"## Examples\n\n{_block(examples.partition(chr(10))[2])}",
            "It takes all [options](../options.md), and ends with one of these [codes](../errors.md).",
            "",
        )
    )


def _command_page(words: str, command: click.Command) -> str:
    context = click.Context(command, info_name=words)
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [f"# {words}\n", HERE, f"{_prose(cleandoc(command.help or ''))}\n", f"```text\n{words} {usage}\n```\n"]
    examples = (
        command.examples if isinstance(command, CaptureCommand) else (command.epilog or "").partition("Examples:")[2]
    )
    if examples:
        parts.append(f"## Examples\n\n{_block(examples)}")
    own = [param for param in command.get_params(context) if not isinstance(param, SettingOption)]
    # click keeps the option of the first context that a process has made, with that context's names for it.
    records = [record for param in own if "--help" not in param.opts and (record := param.get_help_record(context))]
    parts.append("## Options\n")
    parts += [f"- `{flags}`: {_prose(' '.join(text.split()))}" for flags, text in records if text]
    parts.append("- `-h, --help`: Show this message and exit.")
    if len(own) < len(command.get_params(context)):
        parts.append("- the [capture options](../options.md)")
    return "\n".join((*parts, "\nIt ends with one of these [codes](../errors.md).\n"))


def _block(text: str) -> str:
    """Return examples as what root types; a test runs them."""
    lines = [f"# {line.strip()}" for line in text.strip("\n").splitlines()]
    return "\n".join(("```console", *lines, "```\n"))


def _prose(text: str) -> str:
    """Return a help text in which options and words in capitals are code, and stars are stars."""
    outside_of_code = text.split("`")[::2]
    code = text.split("`")[1::2]
    marked = [
        re.sub(r"(?<![\w-])(--?[a-z][\w-]*(?:=\w+)?)", r"`\1`", each).replace("*", r"\*").replace("<", "&lt;")
        for each in outside_of_code
    ]
    return "".join(f"{words}`{quoted}`" for words, quoted in zip(marked, code, strict=False)) + marked[-1]


# --- codes -------------------------------------------------------------------------------------------

ERRORS = """\
# Exit codes and error codes

Written by `scripts/docs_pages.py` from the tables in `capture/report/exit_codes.py` and `cni/code_texts.py`.

Of `apply`, `clean`, `verify` and `istio-init` the code tells what became of the rules, even where the output cannot be
written (a full disk, a closed stream). A command that is there for its output, such as `dump`, fails then.
"""
PLUGIN_ERRORS = """
## Error codes of the CNI plugin

They are in the pod's events (`kubectl describe pod`), in the plugin's log, and in the runtime's log. The message names
the pod and what is wrong; `details` say what to do. Codes below 100 are those of the CNI specification.
"""


def _code_pages() -> Iterator[tuple[str, str]]:
    index = [ERRORS, "## Exit codes of the programs\n", *_code_table("exit", EXIT_CODES)]
    index += [PLUGIN_ERRORS, *_code_table("cni", CNI_CODES)]
    yield "errors.md", "\n".join((*index, ""))
    for kind, title, texts in (("exit", "Exit code", EXIT_CODES), ("cni", "CNI error code", CNI_CODES)):
        for text in texts:
            yield f"errors/{kind}-{text.code}.md", _code_page(f"{title} {text.code}", text)


def _code_table(kind: str, texts: tuple[CodeText, ...]) -> Iterator[str]:
    yield "| code | meaning | of |\n| --- | --- | --- |"
    for text in texts:
        yield f"| [{text.code}](errors/{kind}-{text.code}.md) | {text.means} | {text.programs} |"


def _code_page(title: str, text: CodeText) -> str:
    parts = [f"# {title}: {text.means}\n", f"Of: {text.programs}.\n", f"{text.explanation}\n"]
    if text.remedies:
        parts += ["| the message | what to do |\n| --- | --- |"]
        parts += [f"| {message} | {remedy} |" for message, remedy in text.remedies]
        parts += [""]
    return "\n".join((*parts, "[All codes](../errors.md)\n"))


if __name__ == "__main__":
    sys.exit(main())

"""Write what comes from code or from other files: pages of docs/, and the JSON Schema files.

    docs/options.md          the option table
    docs/commands/*.md       the commands' help; what is below the marker was written by hand and stays
    docs/errors.md           every exit code and error code, from the titles of docs/errors/*.md, a page for each
    docs/errors/exit-*.md    whose code it is; the rest was written by hand and stays
    capture/report/schemas   each with those that it refers to, so that a validator needs one file

A test compares these texts with the pages.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING

import click
from shared_files import PLUGIN

from capture.cli.group import COMMANDS, OUTPUT_COMMANDS, capture
from capture.cli.options import CaptureCommand, SettingOption
from capture.report.option_text import by_topic
from capture.settings.keywords import OPTIONS_BY_KEYWORD
from cni.agent.kubectl import capture_pod
from initcontainer.help import USAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from capture.settings.options import Option

DOCS = Path(__file__).resolve().parents[1] / "docs"
HERE = "<!-- written by scripts/docs_pages.py from the command; what is below the end of this part is not -->\n"
END = "<!-- end of this part -->\n"


def main() -> int:
    """Write all of them."""
    for name, text in generated_pages().items():
        path = DOCS / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


def generated_pages() -> dict[str, str]:
    """Return each page by its place under docs/."""
    found = {"options.md": _options_page({option: name for name, option in OPTIONS_BY_KEYWORD.items()})}
    for name, text in _command_pages():
        path = DOCS / "commands" / f"{name}.md"
        by_hand = path.read_text(encoding="utf-8").partition(END)[2] if path.exists() else ""
        found[f"commands/{name}.md"] = f"{text}\n{END}{by_hand}"
    of_exit_codes = dict(_exit_code_pages())
    return found | of_exit_codes | {"errors.md": _codes(of_exit_codes)} | dict(_schemas())


# --- schemas ---------------------------------------------------------------------------------------

SCHEMAS = "../capture/report/schemas"
REFERENCE = re.compile(r'"\$ref": "(urn:[^"#]+)')


def _schemas() -> Iterator[tuple[str, str]]:
    """Yield each schema with all that it refers to in its definitions (JSON Schema 2020-12, section 9.3.1)."""
    own = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in (DOCS / SCHEMAS).glob("*.json")}
    for schema in own.values():
        schema["$defs"] = {key: kept for key, kept in schema.get("$defs", {}).items() if not key.startswith("urn:")}
        if not schema["$defs"]:
            del schema["$defs"]
    by_id = {schema["$id"]: schema for schema in own.values()}
    for name, schema in own.items():
        found: dict[str, Any] = {}
        while missing := set(REFERENCE.findall(json.dumps([schema, found]))) - {*found, schema["$id"]}:
            found |= {key: by_id[key] for key in missing}
        defined = {**schema.get("$defs", {}), **dict(sorted(found.items()))}
        yield f"{SCHEMAS}/{name}", json.dumps(schema | ({"$defs": defined} if defined else {}), indent=1) + "\n"


# --- options ---------------------------------------------------------------------------------------

OPTIONS = """\
# Options

Written by `scripts/docs_pages.py` from the option table in `capture/settings/options.py`; a test compares the two.

{taken}

The CNI plugin takes them from a pod's annotations and from its own configuration. Programs give them to `make_settings`
([library.md](library.md)).

A flag beats the environment, and the environment beats the default. An explicit empty value counts: it means "none";
for users, groups and words (a mode, a backend), the default. A number (a port, a mark) must not be empty. A switch
takes its value after `=` only (`--dual-stack=false`). Every value is checked before anything is done; one that cannot
be used is an error (exit code 2). Only a truth value in the environment that cannot be read is ignored, with a warning:
Istio's agent ignores `ISTIO_META_DNS_CAPTURE=yes`, too. Of several variables of one option the last one that can be
read counts.
"""


def _options_page(names: Mapping[Option[Any], str]) -> str:
    """Return the page about all options; ``names`` are the ones in Python."""
    takers = [
        f"`{words}`" for words, command in commands() if any(isinstance(each, SettingOption) for each in command.params)
    ]
    taken = f"{', '.join(takers[:-1])} and {takers[-1]} take those that decide on the rules and on the backend."
    lines = [OPTIONS.format(taken=textwrap.fill(f"`istio-init` takes all of them. {taken}", 120))]
    for topic, options in by_topic(names).items():
        lines.append(f"\n## {topic}\n")
        lines += [_option_as_markdown(option, names[option]) for option in options]
    return "".join(lines)


def _option_as_markdown(option: Option[Any], name: str) -> str:
    flags = [f"`-{option.short}`"] if option.short else []
    value = "" if option.is_switch else f" {option.metavar}"
    flags.append(f"`--{option.flag}{value}`" if option.flag else f"`{option.environment[0]}`")
    facts = [f"- Takes: {_without_stars(option.expected)}"]
    if option.default:
        facts.append(f"- Default: `{option.default}`")
    facts.append(f"- Environment: {_listed(option.variables)}")
    if option.annotations:
        facts.append(f"- Annotation of a pod: {_listed(option.annotations)}")
    facts.append(f"- In Python: `{name}`")
    return "\n".join((f"\n### {', '.join(flags)}\n", f"{_without_stars(option.help)}\n", *facts, ""))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _without_stars(text: str) -> str:
    """Return text in which a quoted star is code: markdown would take two of them for emphasis."""
    return text.replace("'*'", "`*`")


# --- commands ----------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield the words that each command is called by, and the command."""
    for name in COMMANDS:
        command = capture.get_command(click.Context(capture), name)
        if isinstance(command, click.Group):
            for below, each in command.commands.items():
                yield f"capture {name} {below}", each
        elif command:
            yield f"capture {name}", command
    yield "kubectl capture", capture_pod


def _command_pages() -> Iterator[tuple[str, str]]:
    yield "istio-init", f"# istio-init\n\n{HERE}\n{_usage_of_istio_init()}"
    for words, command in commands():
        yield words.removeprefix("capture ").replace(" ", "-"), _command_page(words, command)
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

Written by `scripts/docs_pages.py` from the pages in `docs/errors/`.

Of `apply`, `clean`, `verify` and `istio-init` the code is about the rules, even where the output cannot be
written (a full disk, a closed stream). A command that is there for its output, such as `dump`, fails then.
"""
PLUGIN_ERRORS = """
## Error codes of the CNI plugin

They are in the pod's events (`kubectl describe pod`), in the plugin's log, and in the runtime's log. The message names
the pod and what is wrong; `details` say what to do. Codes below 100 are those of the CNI specification.
"""


ENDING_WITH = {
    4: (
        "capture verify", "capture diff", "capture why", "capture doctor", "capture cni status", "capture node pods",
        "capture node pod", "capture host status", "kubectl capture",
    ),
    5: ("capture verify", "capture diff", "capture why", "capture node pod", "capture host status", "kubectl capture"),
    125: ("istio-init --run-validation --require-proof",),
    126: ("istio-init --run-validation",),
    141: tuple(f"capture {name}" for name in OUTPUT_COMMANDS),
}  # fmt: skip
"""The commands that end with a code; the other codes are of all."""
ALL_COMMANDS = "`istio-init` and every `capture` command"
CODE_PAGE = re.compile(r"# .*? (\d+): (.*)\n\nOf: (.*)\.\n")
"""How the page of a code begins: which it is, what it means, and whose it is."""


def _exit_code_pages() -> Iterator[tuple[str, str]]:
    """Yield the page of each exit code, with the commands that end with it."""
    for code in codes_of("exit"):
        name = f"errors/exit-{code}.md"
        text = (DOCS / name).read_text(encoding="utf-8")
        yield name, re.sub(r"(?m)^Of: .*$", f"Of: {_listed(ENDING_WITH.get(code, ())) or ALL_COMMANDS}.", text, count=1)


def _codes(of_exit_codes: Mapping[str, str]) -> str:
    tables = {kind: "\n".join(_code_table(kind, of_exit_codes)) for kind in ("exit", "cni")}
    return f"{ERRORS}\n## Exit codes of the programs\n\n{tables['exit']}\n{PLUGIN_ERRORS}\n{tables['cni']}\n"


def _code_table(kind: str, pages_of_codes: Mapping[str, str]) -> Iterator[str]:
    yield "| code | meaning | of |\n| --- | --- | --- |"
    for code in codes_of(kind):
        name = f"errors/{kind}-{code}.md"
        text = pages_of_codes.get(name) or (DOCS / name).read_text(encoding="utf-8")
        number, means, programs = CODE_PAGE.findall(text)[0]
        yield f"| [{number}]({name}) | {means} | {programs} |"


def codes_of(kind: str) -> list[int]:
    """Return the codes that have a page, of programs (``exit``) or of the plugin (``cni``)."""
    return sorted(int(path.stem.partition("-")[2]) for path in (DOCS / "errors").glob(f"{kind}-*.md"))


if __name__ == "__main__":
    sys.exit(main())

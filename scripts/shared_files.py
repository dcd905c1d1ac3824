"""The files under share/: manual pages, completion for bash, zsh and fish, and JSON Schemas.

    scripts/shared_files.py DIRECTORY

The pages are made from the commands and the option table, completion of `capture` by click, that of `istio-init` from
the option table. The wheel and the bundle carry them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any

import click
import istio_init_completion
from click.shell_completion import ShellComplete, get_completion_class

from capture import __version__
from capture.cli.group import COMMANDS, LazyGroup, capture
from capture.cli.options import CaptureCommand, SettingOption
from capture.report.option_text import by_topic, flags_text, help_text
from capture.settings.options import OPTIONS, Option
from initcontainer.help import USAGE

COMPLETIONS = {
    "bash": "bash-completion/completions/capture",
    "zsh": "zsh/site-functions/_capture",
    "fish": "fish/vendor_completions.d/capture.fish",
}
SCHEMAS = Path(__file__).parents[1] / "capture" / "report" / "schemas"
PLUGIN = """\
A container runtime starts it for each pod, as the last plugin of a network configuration list. It decides by the pod's
annotations whether the pod is captured, writes the rules into the pod's network namespace, and answers as the CNI
specification says. `capture cni install` puts it on a node. docs/cni.md has its configuration and its errors.
"""


def main() -> int:
    """Write all of them."""
    write(Path(sys.argv[1]))
    return 0


def write(directory: Path) -> dict[Path, str]:
    """Write the files under a directory; return each with its place below share/."""
    written = {}
    for place, text in files():
        path = directory / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written[path] = place
    return written


def files() -> Iterator[tuple[str, str]]:
    """Return the place below share/ of each file, and its text."""
    yield "man/man1/capture.1", capture_page()
    yield "man/man1/istio-init.1", istio_init_page()
    yield "man/man8/capture-cni.8", plugin_page()
    for schema in sorted(SCHEMAS.iterdir()):
        yield f"istio-capture/schemas/{schema.name}", schema.read_text(encoding="utf-8")
    for shell, place in COMPLETIONS.items():
        of_shell = get_completion_class(shell)
        if of_shell is None:
            raise LookupError(f"click knows no completion for {shell}")
        # The class for bash looks which bash is installed here, which is of no interest for a file.
        yield place, ShellComplete.source(of_shell(capture, {}, "capture", "_CAPTURE_COMPLETE"))
    for place, script in istio_init_completion.SCRIPTS.values():
        yield place, script()


# --- manual pages, in the macros of man(7) -----------------------------------------------------------


def capture_page() -> str:
    """Return capture(1): every command with its options."""
    lines = _title_lines("capture", 1, "capture the traffic of pods for Istio's sidecar proxy")
    lines += ["capture COMMAND [OPTIONS]", *_heading("DESCRIPTION"), *_paragraphs(cleandoc(capture.help or ""))]
    lines += [line for name in COMMANDS for line in _command_lines(f"capture {name}", _found(name))]
    own = [param.get_help_record(click.Context(capture)) for param in capture.params]
    lines += [*_heading("OPTIONS"), *_records(record for record in own if record)]
    lines += [*_heading("EXIT STATUS"), *_paragraphs(capture.epilog or "")]
    return "\n".join([*lines, *_heading("SEE ALSO"), "istio-init(1), capture-cni(8), iptables(8), nft(8)", ""])


def istio_init_page() -> str:
    """Return istio-init(1)."""
    synopsis, _, rest = USAGE.partition("\n")
    lines = _title_lines("istio-init", 1, "capture the traffic of the pod that it runs in")
    lines += [synopsis.removeprefix("Usage: "), *_heading("DESCRIPTION"), *_paragraphs(rest)]
    for topic, options in by_topic(OPTIONS).items():
        lines += [*_heading(topic), *_setting_lines(options)]
    return "\n".join([*lines, *_heading("SEE ALSO"), "capture(1), capture-cni(8)", ""])


def plugin_page() -> str:
    """Return capture-cni(8)."""
    lines = [*_title_lines("capture-cni", 8, "capture pods as a CNI plugin"), *_paragraphs(PLUGIN)]
    return "\n".join([*lines, *_heading("SEE ALSO"), "capture(1), istio-init(1)", ""])


def _found(name: str) -> click.Command:
    group: LazyGroup = capture
    command = group.get_command(click.Context(capture), name)
    if command is None:
        raise LookupError(f"no command {name}")
    return command


def _command_lines(words: str, command: click.Command) -> Iterator[str]:
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from _command_lines(f"{words} {name}", below)
        return
    yield from _heading(words)
    yield from _paragraphs(cleandoc(command.help or ""))
    context = click.Context(command)
    settings = [param.setting for param in command.params if isinstance(param, SettingOption)]
    own = [param for param in command.get_params(context) if not isinstance(param, SettingOption)]
    yield from _records(record for param in own if (record := param.get_help_record(context)))
    yield from _setting_lines(settings)
    if isinstance(command, CaptureCommand) and command.examples:
        yield from (".PP", "Examples:", ".PP", ".nf", ".RS")
        yield from (_roff(line.strip()) for line in command.examples.strip().splitlines())
        yield from (".RE", ".fi")


def _setting_lines(options: Iterable[Option[Any]]) -> Iterator[str]:
    return _records((flags_text(option), help_text(option)) for option in options)


def _records(records: Iterable[tuple[str, str]]) -> Iterator[str]:
    for flags, text in records:
        yield from (".TP", f".B {_roff(flags)}", _roff(" ".join(text.split())))


def _title_lines(name: str, section: int, does: str) -> list[str]:
    title = f'.TH "{name.upper()}" "{section}" "" "istio-capture {__version__}"'
    after = ".SH SYNOPSIS" if section == 1 else ".SH DESCRIPTION"
    return [title, ".SH NAME", f"{_roff(name)} \\- {_roff(does)}", after]


def _heading(text: str) -> Iterator[str]:
    yield f'.SH "{_roff(text)}"'


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs; lines that are indented stay as they are."""
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        yield ".PP"
        for line in paragraph.splitlines():
            if line.startswith("  "):
                yield ".br"
            yield _roff(line.strip())


def _roff(text: str) -> str:
    """Return text without what troff would take for its own: backslashes, and a dot or quote that begins a line."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    sys.exit(main())

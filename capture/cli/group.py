"""The group of commands. A command's module is imported when the command is called, not for ``--help``."""

from __future__ import annotations

import itertools
import pkgutil
import sys
from collections.abc import Callable, Sequence

import click

from capture import __version__
from capture.errors import EXIT_NOT_PROVEN, EXIT_USAGE, EXIT_VALIDATION, CaptureError, exit_codes_text
from capture.model.text import closest_name
from capture.report.output import print_error, print_error_as_json, run_to_exit_code
from capture.report.streams import Stream

COMMANDS = {
    "apply": ("capture.cli.apply:apply", "Capture the traffic of a network namespace."),
    "dump": ("capture.cli.dump:dump", "Show the live rules, with counters."),
    "verify": ("capture.cli.verify:verify", "Compare the live rules with the applied configuration."),
    "trace": ("capture.cli.trace:trace", "Print what happens to a packet, and which rule decides."),
    "why": ("capture.cli.why:why", "Print why a connection does not reach the proxy, or what is wrong with this pod."),
    "watch": ("capture.cli.watch:watch", "Draw the way of packets through the rules, with live counters."),
    "diff": ("capture.cli.diff:diff", "Print which connections two captures treat differently."),
    "explain": ("capture.cli.explain:explain", "Print which connections are captured, which are not, and why."),
    "clean": ("capture.cli.clean:clean", "Remove the capture: rules, routes, addresses."),
    "render": ("capture.cli.render:render", "Print what would be sent to the kernel."),
    "doctor": (
        "capture.cli.doctor.command:doctor",
        "Check the pod, this kernel and host, and print how to repair what is missing.",
    ),
    "inject": ("injection.commands:inject", "Put the sidecar and its capture into the pods of a manifest."),
    "sidecar": ("sidecar.commands:sidecar", "Print Envoy's bootstrap for a captured pod, from the mesh's objects."),
    "cni": ("cni.commands:cni_group", "Put the CNI plugin on a node, or take it away."),
    "node": ("cni.agent.commands:node_group", "Run the agent of a Kubernetes node, or query it."),
    "host": ("capture.cli.host:host_group", "Capture this machine itself: a virtual machine of the mesh."),
}
"""Each command: where it is, and what it does in a line."""

OUTPUT_COMMANDS = ("dump", "trace", "watch", "diff", "explain", "render", "doctor", "inject", "sidecar")
"""Commands that fail if their output cannot be written; the exit code of the others is about the rules."""


class LazyGroup(click.Group):
    """A group that knows its commands by name, and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            similar = closest_name(args[0], COMMANDS)
            hint = f" Did you mean {similar!r}?" if similar else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = pkgutil.resolve_name(COMMANDS[cmd_name][0])
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=exit_codes_text(but=(EXIT_NOT_PROVEN, EXIT_VALIDATION)),
)
@click.version_option(__version__, message="capture %(version)s", help="Print the version, and exit.")
def capture() -> None:
    """Capture the traffic of pods for Istio's sidecar proxy, and show how it is captured.

    Start with `capture why --pid N`: it names what is wrong with a pod, and what to do. N is a process of the pod:
    `crictl ps -q --label io.kubernetes.pod.name=POD` prints its containers, and `crictl inspect -o go-template
    --template '{{.info.pid}}' ID` the process of one. `kubectl capture why POD` needs no number.
    """


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    needs_output = any(word in OUTPUT_COMMANDS for word in words[:1])
    return run_to_exit_code(lambda: run_with_progress(capture, words), reporter(words), needs_output=needs_output)


def run_with_progress(command: click.Command, words: Sequence[str], name: str = "capture") -> int:
    """Run a command; what takes longer than a second is shown on a terminal, until something is printed."""
    if not sys.stderr.isatty() or "-" in words or list(words[:2]) == ["node", "agent"]:
        return run_click(command, words, name)
    from capture.report.progress import Progress

    with Progress(f"{name} {words[0] if words else ''}") as progress:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, Stream):
                stream.when_printing = progress.stop
        return run_click(command, words, name)


def reporter(words: Sequence[str]) -> Callable[[CaptureError], None]:
    """Return how an error is reported: as JSON too where the command line has --format json, even if it is wrong."""
    return print_error_as_json if requests_json(words) else print_error


def requests_json(words: Sequence[str]) -> bool:
    """Return whether a command line requests JSON."""
    return "--format=json" in words or ("--format", "json") in itertools.pairwise(words)


def run_click(command: click.Command, words: Sequence[str], name: str = "capture") -> int:
    """Run a command and return its exit code. Raises CaptureError, also for a usage that is wrong."""
    try:
        code = command.main(list(words), prog_name=name, standalone_mode=False)
    except getattr(click.exceptions, "NoArgsIsHelpError", ()) as error:  # of click 8.2 and later
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except click.UsageError as error:
        raise BadUsageError(error) from None
    except click.Abort:
        raise KeyboardInterrupt from None
    return code if isinstance(code, int) else 0


class BadUsageError(CaptureError):
    """The command line is wrong."""

    exit_code = EXIT_USAGE

    def __init__(self, error: click.UsageError) -> None:
        message = " ".join(usage_text(error).split())
        super().__init__(message[:1].lower() + message[1:], _see_help(error.ctx) if error.ctx is not None else "")


def _see_help(context: click.Context) -> str:
    has_more = any(hasattr(param, "setting") for param in context.command.params)
    return f"See `{context.command_path} {'--help-all' if has_more else '--help'}`."


def usage_text(error: click.UsageError) -> str:
    """Return what is wrong with a command line, in our words; of what has none, in those of click."""
    likely = getattr(error, "possibilities", None) or ()
    params = error.ctx.command.params if error.ctx is not None else []
    if isinstance(error, click.NoSuchOption):
        from capture.settings.keywords import closest_flag  # only where something is wrong

        flags = {name.lstrip("-") for param in params for name in param.opts if name.startswith("--")}
        likely = [f"--{flag}" for flag in [closest_flag(error.option_name.lstrip("-"), flags)] if flag]
    if likely:
        return f"{error.message.rstrip('.')}. Did you mean {' or '.join(map(repr, likely))}?"
    if isinstance(error, click.MissingParameter):
        from capture.cli.parameter_types import name_of

        return f"missing argument {name_of(error.param)}: expected {_expected(error.param)}"
    if isinstance(error, click.BadOptionUsage) and "requires an argument" in error.message:
        option = next((param for param in params if error.option_name in param.opts), None)
        return f"{error.option_name}: missing value: expected {_expected(option)}"
    message = (error.message if isinstance(error, click.NoSuchOption) else error.format_message()).rstrip(".")
    _, is_extra, words = message.partition("unexpected extra argument")
    if not is_extra:
        return message
    hint = "; files are named with -f" if any("-f" in param.opts for param in params) else ""
    ending, _, extra = words.partition(" ")
    return f"unexpected argument{ending} {extra.strip('()')!r}{hint}"


def _expected(param: click.Parameter | None) -> str:
    """Return what is expected of a parameter: by its own type, or by the option of the table that it sets."""
    own: str = getattr(getattr(param, "type", None), "expected", "a value")
    return getattr(getattr(param, "setting", None), "expected", own)

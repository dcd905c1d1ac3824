"""The options of the commands: those of the option table as click knows them, and the namespace to act on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from inspect import cleandoc
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from capture.cli.parameter_types import ParameterType, completions, number_type, word_type
from capture.errors import NamespaceError
from capture.model.addresses import FAMILIES, Network, parse_address
from capture.model.ruleset import SHOWN_TABLES
from capture.report.option_text import by_topic, flags_text, help_text
from capture.report.output import print_on_stderr, warn
from capture.settings.options import ALLOW_HOST, BACKEND_OPTIONS, FORCE_APPLY, RULE_OPTIONS, Option
from capture.settings.parsers import FALSE, TRUE
from capture.settings.settings import Settings, from_environment, with_flags
from capture.system.files import names_in
from capture.system.netns import path_of_process
from capture.system.node import NAMED_NAMESPACES

GIVEN_FLAGS = "capture.options.given"
"""Where a click context keeps the flags of the option table that were given."""


class SettingOption(click.Option):
    """One option of the table: its text is kept as it was given, and parsed where everything is known."""

    def __init__(self, setting: Option[Any]) -> None:
        flags = [f"--{setting.flag}", *([f"-{setting.short}"] if setting.short else [])]
        super().__init__(flags, expose_value=False, callback=self._remember, metavar=setting.metavar or "true|false")
        self.setting = setting

    def _remember(self, ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.meta.setdefault(GIVEN_FLAGS, {})[self.setting] = value

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        return flags_text(self.setting), help_text(self.setting)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        return completions(self.setting.choices, incomplete)


class HelpText(click.HelpFormatter):
    """Help whose paths and names stay whole: click breaks lines at their hyphens, too."""

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        import textwrap

        rows = list(rows)
        column = min(max((len(term) for term, _ in rows), default=0), col_max) + col_spacing
        indent = " " * (self.current_indent + column)
        for term, text in rows:
            lines = textwrap.wrap(text, max(self.width - column - 2, 10), break_on_hyphens=False)
            if len(term) > column - col_spacing:
                lines.insert(0, "")
            first, *others = lines or [""]
            self.write(f"{'':{self.current_indent}}{term:<{column if first else 0}}{first}\n")
            self.write("".join(f"{indent}{line}\n" for line in others))


class HelpContext(click.Context):
    """A context whose help is written so."""

    formatter_class = HelpText


class CommandGroup(click.Group):
    """A group that lists its commands with whole sentences."""

    context_class = HelpContext

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.get_short_help_str(limit=1000)) for name, each in self.commands.items()])


class CaptureCommand(click.Command):
    """A command with examples and with its options by topic; a switch takes a value after ``=`` only, as in pflag."""

    context_class = HelpContext

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        switches = {
            f"--{param.setting.flag}"
            for param in self.params
            if isinstance(param, SettingOption) and param.setting.is_switch
        }
        taking = [param for param in self.params if isinstance(param, click.Option) and not param.is_flag]
        with_values = {flag for param in taking for flag in param.opts}
        try:
            return super().parse_args(ctx, with_explicit_switches(args, switches, with_values - switches))
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what a person looks for first: the purpose, examples, the command's own options."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples.strip().splitlines():
                    for line in example_lines(example.strip(), formatter.width - formatter.current_indent):
                        formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
        self.format_options(ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = [param for param in self.get_params(ctx) if type(param) is click.Option]
        with formatter.section("Options"):
            formatter.write_dl([record for param in own if (record := param.get_help_record(ctx))])
        settings = [param.setting for param in self.params if isinstance(param, SettingOption)]
        if not settings:
            return
        if not ctx.meta.get(HELP_ALL):
            formatter.write_paragraph()
            formatter.write_text(f"{len(settings)} capture options, as of istio-init: {ctx.command_path} --help-all")
            return
        if any(setting in RULE_OPTIONS for setting in settings):
            settings += [setting for setting in RULE_OPTIONS if not setting.flag]
        for topic, options in by_topic(settings).items():
            with formatter.section(topic):
                formatter.write_dl([(flags_text(option), help_text(option)) for option in options])

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        params = super().get_params(ctx)
        return [*params, HELP_ALL_OPTION] if any(isinstance(param, SettingOption) for param in self.params) else params


def command(
    examples: str, *params: click.Parameter, group: click.Group | None = None, **settings: Any
) -> Callable[[Callable[..., Any]], click.Command]:
    """Return a decorator that makes a function a command, of a group perhaps, with these examples and parameters."""
    make = group.command if group else click.command
    return make(cls=CaptureCommand, examples=cleandoc(examples), params=list(params), **settings)


def example_lines(example: str, width: int) -> Iterator[str]:
    """Yield an example as lines that fit: its comment before it, and a backslash where the command goes on."""
    if len(example) <= width:
        yield example
        return
    invocation, _, comment = example.partition("  #")
    if comment:
        yield f"#{comment}"
    rest = invocation.rstrip()
    while len(rest) > width:
        blanks = [at for at, each in enumerate(rest[: width - 1]) if each == " " and not rest.count("'", 0, at) % 2]
        blanks = [at for at in blanks if rest[at + 1] in "-|>"] or blanks
        if not blanks or not rest[: blanks[-1]].strip():
            break
        yield f"{rest[: blanks[-1]]} \\"
        rest = f"    {rest[blanks[-1] + 1 :]}"
    yield rest


def _help_all(ctx: click.Context, _param: click.Parameter, requested: object) -> None:
    if requested and not ctx.resilient_parsing:
        ctx.meta[HELP_ALL] = True
        click.echo(ctx.get_help())
        ctx.exit()


HELP_ALL = "capture.help-all"
HELP_ALL_OPTION = click.Option(
    ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_help_all,
    help="Show this help with the capture options, and exit.",
)  # fmt: skip


def with_explicit_switches(arguments: list[str], switches: set[str], with_values: set[str]) -> list[str]:
    """Return the arguments with ``--switch`` as ``--switch=true``; what follows an option as its value stays."""
    spelled: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            return [*spelled, argument, *rest]
        switch = spelled[-1].removesuffix("=true") if spelled else ""
        if switch in switches and argument in (*TRUE, *FALSE):
            raise click.UsageError(f"{switch} takes a value after = only: {switch}={argument}")
        spelled.append(f"{argument}=true" if argument in switches else argument)
        if argument in with_values:
            spelled += [value for value in [next(rest, None)] if value is not None]
    return spelled


def capture_options(*further: Option[Any]) -> list[click.Parameter]:
    """Return the options of the table that decide on the rules and the backend, and more of it."""
    return [SettingOption(setting) for setting in (*RULE_OPTIONS, *BACKEND_OPTIONS, *further) if setting.flag]


def settings_of(ctx: click.Context) -> Settings:
    """Return the settings of flags and environment; every value is checked now, before anything is done with one.

    Raises ConfigurationError.
    """
    options = (*RULE_OPTIONS, *BACKEND_OPTIONS, ALLOW_HOST, FORCE_APPLY)
    return with_flags(from_environment(os.environ, options), flags_of(ctx)).checked()


def settings_if(ctx: click.Context, *, requested: bool) -> Settings | None:
    """Return the settings of flags and environment with ``--from-options``; else flags are only checked."""
    if requested:
        return settings_of(ctx)
    flags = flags_of(ctx)
    if flags:
        with_flags(Settings({}), flags).checked()
        names = ", ".join(option.name for option in flags)
        warn([f"{names}: no effect on live rules; --from-options takes the rules that the options would give"])
    return None


def flags_of(ctx: click.Context) -> dict[Option[Any], str]:
    """Return the flags of the option table that were given."""
    flags: dict[Option[Any], str] = ctx.meta.get(GIVEN_FLAGS, {})
    return flags


def namespace_options() -> list[click.Parameter]:
    """Return ``--netns`` and ``--pid``; a command gets ``namespace``: a path, or None for the one we are in."""
    return [
        click.Option(["--netns", "namespace"], type=NAMESPACE_TYPE, metavar="PATH|NAME", is_eager=True,
                     shell_complete=named_namespaces,
                     help="Act on this network namespace: a path, or a name of `ip netns`."
                     "  [default: the one we are in]"),
        click.Option(["--pid"], type=number_type(1), metavar="N", expose_value=False, callback=_set_namespace_of_pid,
                     help="Act on the network namespace of this process."),
    ]  # fmt: skip


def _parse_namespace(text: str) -> str:
    """Return the path of a namespace; a name without a slash is one of ip-netns(8)."""
    return text if not text or "/" in text else f"{NAMED_NAMESPACES}/{text}"


NAMESPACE_TYPE = ParameterType(_parse_namespace, "a path, or a name of `ip netns`", lambda path: path != "")


def print_how_to_apply(namespace: str | None, *, is_recorded: bool = False) -> None:
    """Print on stderr what to do where nothing is applied: name a pod, if this is the node's own namespace."""
    from capture.analysis.cause_text import REAPPLY_OR_RECREATE, RECREATE  # where nothing is applied only
    from capture.report.target import with_target
    from capture.system.node import evidence_of_host

    if namespace is None and evidence_of_host() is not None:
        warn(["this is the node's own network namespace; name a pod by --pid N or --netns NAME"])
    else:
        print_on_stderr(f"  {with_target(REAPPLY_OR_RECREATE if is_recorded else RECREATE, namespace)}")


def named_namespaces(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return what a shell offers: the paths of the network namespaces that have a name."""
    return completions([f"{NAMED_NAMESPACES}/{name}" for name in names_in(NAMED_NAMESPACES)], incomplete)


OF_PROCESS_ALONE = "--as-pid brings the namespace of the process; --netns and --pid exclude it"


def _set_namespace_of_pid(ctx: click.Context, _param: click.Parameter, pid: int | None) -> None:
    if pid is None:
        return
    if ctx.params.get("namespace") is not None:
        is_named = ctx.get_parameter_source("namespace") is ParameterSource.COMMANDLINE
        raise click.UsageError("give --netns or --pid, not both" if is_named else OF_PROCESS_ALONE, ctx)
    ctx.params["namespace"] = namespace_of_process("--pid", pid)


def namespace_of_process(flag: str, pid: int) -> str:
    """Return the path of the network namespace of a process. Raises NamespaceError that names the flag."""
    if not os.path.exists(f"/proc/{pid}"):
        raise NamespaceError(f"of {flag} {pid}", "no such process", "`ps -e` or `lsns -t net`")
    return path_of_process(pid)


def format_option(*formats: str) -> click.Parameter:
    """Return ``--format``; a command gets it as ``form``."""
    return click.Option(
        ["--format", "form"], type=word_type(*formats), default=formats[0], show_default=True, help="How to print it."
    )


def family_option(verb: str = "Show") -> click.Parameter:
    """Return ``--family``, which restricts what is shown, or what else a command does."""
    return click.Option(["--family"], type=word_type(*FAMILIES), help=f"{verb} this family only.")


def part_options(verb: str = "Show") -> list[click.Parameter]:
    """Return ``--family`` and ``--table``, which restrict what is shown, or what else a command does."""
    return [
        family_option(verb),
        click.Option(["--table", "table_name"], type=word_type(*SHOWN_TABLES), help=f"{verb} this table only."),
    ]


def dns_servers_option() -> click.Parameter:
    """Return ``--dns-servers``; a command gets it as ``dns_servers``, a tuple of addresses."""
    return click.Option(
        ["--dns-servers"], type=ADDRESS_LIST_TYPE, metavar="LIST", default="",
        help="The pod's name servers, for captures of DNS by server.  [default: those of resolv.conf in the pod]",
    )  # fmt: skip


def _parse_addresses(text: str) -> tuple[Network, ...]:
    return tuple(parse_address(each.strip()) for each in text.split(",") if each.strip())


ADDRESS_LIST_TYPE = ParameterType(_parse_addresses, "IP addresses, separated by commas")

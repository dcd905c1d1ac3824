"""Completion of ``istio-init`` for bash, zsh and fish, from the option table. It needs no start of the program."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from capture.settings.options import NETWORK_NAMESPACE, OPTIONS, Option
from capture.system.node import NAMED_NAMESPACES
from initcontainer.arguments import SUBCOMMAND

FLAGS = [option for option in OPTIONS if option.flag]
OTHER_FLAGS = {"help": "Show all options.", "version": "Show the version."}

BASH = """\
# Written from the option table. Bash takes the = of --flag=value for a word of its own.
_istio_init() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} flag=${{COMP_WORDS[COMP_CWORD-1]}} values=
    [ "$word" != = ] || word=
    [ "$flag" != = ] || flag=${{COMP_WORDS[COMP_CWORD-2]}}
    case $flag in
{cases}
        *) values="{flags}"; [ "$COMP_CWORD" != 1 ] || values="{subcommand} $values" ;;
    esac
    COMPREPLY=($(compgen -W "$values" -- "$word"))
}}
complete -F _istio_init istio-init
"""
ZSH = """\
#compdef istio-init
# Written from the option table.
_arguments -s \\
{flags}
  '1: :({subcommand})'
"""


def bash_script() -> str:
    """Return the script for bash."""
    cases, without_values = [], []
    for option in FLAGS:
        if option.is_switch:
            continue
        names = "|".join(_names(option))
        if option is NETWORK_NAMESPACE:
            cases.append(f'        {names}) COMPREPLY=($(compgen -f -- "${{word:-{NAMED_NAMESPACES}/}}")); return ;;')
        elif option.choices:
            cases.append(f'        {names}) values="{" ".join(option.choices)}" ;;')
        else:
            without_values.append(names)
    cases.append(f"        {'|'.join(without_values)}) ;;")
    flags = [f"--{name}" for name in (*(option.flag for option in FLAGS), *OTHER_FLAGS)]
    return BASH.format(cases="\n".join(cases), flags=" ".join(flags), subcommand=SUBCOMMAND)


def zsh_script() -> str:
    """Return the script for zsh."""
    flags = [_zsh_flag(option) for option in FLAGS]
    flags += [f"  {shlex.quote(f'--{name}[{text}]')} \\" for name, text in OTHER_FLAGS.items()]
    return ZSH.format(flags="\n".join(flags), subcommand=SUBCOMMAND)


def _zsh_flag(option: Option[Any]) -> str:
    text = "".join(f"\\{letter}" if letter in "[]:\\" else letter for letter in option.help)
    if option.is_switch:
        takes = ""
    elif option is NETWORK_NAMESPACE:
        takes = f":{option.metavar}:_files"
    else:
        takes = f":{option.metavar}:({' '.join(option.choices)})"
    names = [f"-{option.short}{'' if option.is_switch else '+'}"] if option.short else []
    names.append(f"--{option.flag}{'' if option.is_switch else '='}")
    exclusive = f"({' '.join(_names(option))})"
    return "\n".join(f"  {shlex.quote(f'{exclusive}{name}[{text}]{takes}')} \\" for name in names)


def fish_script() -> str:
    """Return the script for fish."""
    lines = ["# Written from the option table.", "complete -c istio-init -f"]
    lines.append(f"complete -c istio-init -n __fish_is_first_token -a {SUBCOMMAND}")
    for option in FLAGS:
        words = ["complete", "-c", "istio-init", *(["-s", option.short] if option.short else []), "-l", option.flag]
        if option is NETWORK_NAMESPACE:
            words += ["-r", "-F"]
        elif not option.is_switch:
            words += ["-x", *(["-a", " ".join(option.choices)] if option.choices else [])]
        lines.append(f"{shlex.join(words)} -d {_fish_quoted(option.help)}")
    lines += [f"complete -c istio-init -l {name} -d {_fish_quoted(text)}" for name, text in OTHER_FLAGS.items()]
    return "\n".join([*lines, ""])


def _fish_quoted(text: str) -> str:
    """Return text in fish's single quotes, in which a backslash escapes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _names(option: Option[Any]) -> list[str]:
    return [*([f"-{option.short}"] if option.short else []), f"--{option.flag}"]


SCRIPTS: dict[str, tuple[str, Callable[[], str]]] = {
    "bash": ("bash-completion/completions/istio-init", bash_script),
    "zsh": ("zsh/site-functions/_istio-init", zsh_script),
    "fish": ("fish/vendor_completions.d/istio-init.fish", fish_script),
}
"""For each shell, the place below share/ and what writes the script."""

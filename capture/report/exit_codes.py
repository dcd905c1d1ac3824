"""What each exit code means and what to do about it: the table from which ``docs/errors/`` is written."""

from __future__ import annotations

from capture.errors import (
    EXIT_DONE,
    EXIT_DRIFT,
    EXIT_FAILED,
    EXIT_NOT_PROVEN,
    EXIT_UNKNOWN,
    EXIT_UNSUPPORTED,
    EXIT_USAGE,
    EXIT_VALIDATION,
)
from capture.model.values import Value
from capture.report.output import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED


class CodeText(Value):
    """What a code means, of whom, and what to do where a message says one thing or another."""

    code: int
    means: str
    programs: str
    explanation: str
    remedies: tuple[tuple[str, str], ...] = ()
    """What the message says, and what to do."""


ALL = "`istio-init` and every `capture` command"

EXIT_CODES = (
    CodeText(
        code=EXIT_DONE,
        means="done",
        programs=ALL,
        explanation="The operation succeeded. For `verify`: the live rules match. For `why` and `doctor`: no fault was"
        " found. For `istio-init --run-validation`: nothing that could be checked was wrong; a line `not validated`"
        " names each thing that could not be checked.",
    ),
    CodeText(
        code=EXIT_FAILED,
        means="the operation failed",
        programs=ALL,
        explanation="The kernel, a program or the file system refused. The message has their own words. A change is one"
        " transaction for each table, and the next run completes what an interrupted one began.",
        remedies=(
            (
                "`network namespace PATH: ...`",
                "The pod has ended, or the path is wrong: `ls /run/netns`, `lsns -t net`.",
            ),
            (
                "`state directory PATH: ...`",
                "Other users could write there. Look what is in it; then remove it, or `chown root:` and `chmod 0700`.",
            ),
            (
                "`the ruleset changed during each of 10 attempts`",
                "Another process keeps modifying the rules. Stop it, or wait until it is done.",
            ),
            (
                "`PROGRAM ended with status N`",
                "The message ends with the program's error. `capture doctor` checks its version.",
            ),
            (
                "the words of an errno, such as `No buffer space available`",
                "Look for the kernel's reason with `dmesg`.",
            ),
        ),
    ),
    CodeText(
        code=EXIT_USAGE,
        means="wrong usage or configuration, and nothing was changed",
        programs=ALL,
        explanation="An option, a value or their combination cannot be used. Every value is checked before the first"
        " change.",
        remedies=(
            (
                "`OPTION (ORIGIN): invalid value 'x': expected ...`",
                "Correct the value where ORIGIN says: command line, environment variable, annotation.",
            ),
            (
                "`this network namespace is the host's own`",
                "Name the pod's namespace with `--netns` or `--pid`. A pod with `hostNetwork` cannot be captured.",
            ),
            ("`no such option`, `No such command`", "`capture COMMAND --help-all` lists the options."),
        ),
    ),
    CodeText(
        code=EXIT_UNSUPPORTED,
        means="this kernel or host cannot, or a capability is missing",
        programs=ALL,
        explanation="What the settings need is not available here. Nothing was changed, or what was changed was taken"
        " back. `capture doctor` lists what is missing, with a remedy for each.",
        remedies=(
            (
                "`not permitted to ...`",
                "Run as root, or add the capabilities NET_ADMIN and NET_RAW (for another namespace: SYS_ADMIN).",
            ),
            ("a kernel module is named", "Load it on the node: `modprobe NAME`. In most pods this cannot be done."),
            ("a program or library is named", "Install it, or choose the driver `netlink`, which needs none."),
            ("`hostUsers: false`, user namespace", "Let `--backend auto` choose: nftables works there."),
        ),
    ),
    CodeText(
        code=EXIT_DRIFT,
        means="drift, or a cause was found",
        programs="`capture verify`, `capture diff`, `capture why`, `capture doctor`, `capture cni status`",
        explanation="The command worked, and found a difference or a fault. Each is one line of its output, with the"
        " packets that it concerns.",
        remedies=(
            (
                "a rule is missing or unexpected",
                "`capture apply`, or run `istio-init` again: only what differs is written.",
            ),
            (
                "a foreign rule diverts captured traffic",
                "Change the program that wrote it. Applying again does not remove foreign rules.",
            ),
            ("`why` or `doctor` names a cause", "Each cause has its remedy in the next line."),
        ),
    ),
    CodeText(
        code=EXIT_UNKNOWN,
        means="cannot be told",
        programs="`capture verify`, `capture why`",
        explanation="No fault is certain, and none can be excluded.",
        remedies=(
            (
                "no record here",
                "Give the options of the capture as the reference: `capture verify -p 15001 -z 15006 ...`.",
            ),
            (
                "`not judged`: a foreign rule",
                "It asks for something that no packet shows (`-m statistic`, a queue). Look at the rule.",
            ),
            (
                "`not judged`: the order of two chains",
                "They have one priority in iptables-legacy and in nf_tables. Use one of the two variants only.",
            ),
        ),
    ),
    CodeText(
        code=EXIT_NOT_PROVEN,
        means="not everything could be proven",
        programs="`istio-init --run-validation --require-proof`",
        explanation="No connection went the wrong way, but some could not be tried, and `--require-proof` was set.",
        remedies=(
            ("`not validated: ...`, a capability is named", "Add SETUID, SETGID or NET_ADMIN to the container."),
            ("`not validated: inbound ...`", "`--probe-from-outside` tries it with a veth pair of its own."),
        ),
    ),
    CodeText(
        code=EXIT_VALIDATION,
        means="validation failed: a connection did not reach the proxy",
        programs="`istio-init --run-validation`",
        explanation="A connection that the rules should capture was tried, and went elsewhere. In CNI mode this code"
        " makes the pod restart, as with Istio's `istio-validation`.",
        remedies=(
            (
                "a rule is missing, and should be written by the CNI plugin",
                "`capture cni status` on the node: is the plugin installed, and was this pod left alone?",
            ),
            ("a rule is missing, and should be written by `istio-init`", "Look at the log of that container."),
            (
                "`the connection was accepted by another listener`",
                "Another process listens on the proxy's port, or a foreign rule redirects.",
            ),
        ),
    ),
    CodeText(
        code=EXIT_INTERRUPTED,
        means="interrupted by Ctrl-C",
        programs=ALL,
        explanation="128 + SIGINT, as shells have it. Run the command again: it completes what was begun.",
    ),
    CodeText(
        code=EXIT_BROKEN_PIPE,
        means="the reader of the output has gone",
        programs="commands that are there for their output, such as `capture dump`",
        explanation="128 + SIGPIPE: `capture dump | head -1` does that. Commands that change rules keep their code.",
    ),
)

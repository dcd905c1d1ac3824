"""``istio-init``: the init container. Flags and environment as upstream's ``istio-iptables``, and more.

It prints its settings and where they come from, applies them, and ends with the live rules.
"""

from __future__ import annotations

import os
import sys

from capture import operations
from capture.backends import detect
from capture.errors import EXIT_DONE, ConfigurationError, NotProvenError, UnsupportedError
from capture.report import listings
from capture.report.applied_text import applied_text, start_line
from capture.report.output import run_to_exit_code
from capture.settings import options
from capture.settings.config import resolve
from capture.settings.families import link_local_note
from capture.settings.settings import Settings, from_environment, with_flags
from capture.system.netns import InNamespace
from capture.system.pod_host import PodFromInside, PodFromOutside
from initcontainer.arguments import CommandLine, HelpRequested, VersionRequested
from initcontainer.printer import Printer
from initcontainer.upstream_flags import newer_mesh

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main() -> int:
    """Run with the arguments and the environment of the process; return the exit code."""
    printer = Printer()
    return run_to_exit_code(lambda: run(sys.argv[1:], os.environ, printer), printer.report)


def run(arguments: Sequence[str], environ: Mapping[str, str], printer: Printer) -> int:
    """Do what arguments and environment request and return the exit code. Raises CaptureError."""
    try:
        settings = _read_settings(arguments, environ, printer)
    except HelpRequested as requested:
        from initcontainer.help import usage  # textwrap costs milliseconds

        print(usage(everything="help-all" in requested.args), end="")
        return EXIT_DONE
    except VersionRequested:
        from capture import __version__

        print(f"istio-init {__version__}")
        return EXIT_DONE
    for line in settings.lines():
        printer.show(line)
    namespace = settings[options.NETWORK_NAMESPACE] or None
    host = PodFromOutside(environ) if settings[options.CNI_MODE] else PodFromInside(environ)
    if settings[options.CLEANUP_ONLY]:
        _show_recorded_capture(namespace, printer)
        _clean(settings, namespace, printer)
        return EXIT_DONE
    _show_start(settings, namespace, host, printer)
    if settings[options.DRY_RUN]:
        _dry_run(settings, namespace, host, printer)
        return EXIT_DONE
    if settings[options.SKIP_RULE_APPLY]:
        printer.show("no rule is written: --skip-rule-apply")
    else:
        _apply(settings, namespace, host, printer)
    if settings[options.RUN_VALIDATION]:
        from initcontainer.validation import validate  # few runs do it

        proofs = validate(settings, namespace, host)
        for proof in proofs:
            printer.show(f"{'validated' if proof.holds else 'not validated'}: {proof.message}")
        unproven = tuple(proof.message for proof in proofs if not proof.holds)
        if settings[options.REQUIRE_PROOF] and unproven:
            raise NotProvenError(unproven)
    return EXIT_DONE


def _read_settings(arguments: Sequence[str], environ: Mapping[str, str], printer: Printer) -> Settings:
    """Return the settings of environment and arguments, and let the printer obey, also where an argument is wrong."""
    in_environment = from_environment(environ)
    command_line = CommandLine(options.OPTIONS)
    try:
        command_line.read(arguments)
    finally:
        printer.obey(with_flags(in_environment, command_line.flags))
    printer.warn([*in_environment.warnings, *command_line.warnings])
    return with_flags(in_environment.replace(warnings=()), command_line.flags).checked()


def _show_start(settings: Settings, namespace: str | None, host: PodFromInside, printer: Printer) -> None:
    """Print profile and families, where both come from, and what may surprise about them."""
    with InNamespace(namespace):
        config, _ = resolve(settings, host)
        printer.show(start_line(settings, config))
        printer.warn(filter(None, [newer_mesh(settings)]), is_output=True)
        note = link_local_note(settings, config.families, host.pod_addresses())
        if note:
            printer.show(note)


def _show_recorded_capture(namespace: str | None, printer: Printer) -> None:
    """Print the start line of the recorded capture, which is to be removed, if it has a meaning here."""
    try:
        reference = operations.read_reference(None, namespace)
    except ConfigurationError:
        return
    if reference is not None:
        printer.show(start_line(reference.settings, reference.config))


def _apply(settings: Settings, namespace: str | None, host: PodFromInside, printer: Printer) -> None:
    applied = operations.apply(settings, namespace, host, force=settings[options.FORCE_APPLY])
    printer.warn(applied.warnings)
    printer.show(f"{applied_text(applied)}\n")
    dumped = operations.dump(namespace)
    # With a read-only root file system, as pods should have it, no record is kept: the settings are what was applied.
    verified = dumped.verified or operations.verify(settings, namespace, host).replace(from_record=True)
    printer.show("\n".join(listings.listing_lines([*listings.shown_tables(dumped)], verified, is_whole=True)))


def _clean(settings: Settings, namespace: str | None, printer: Printer) -> None:
    """Remove the capture; in a dry run, show what would be removed."""
    if settings[options.DRY_RUN]:
        dumped = operations.dump(namespace)
        if not dumped.live_sets:
            printer.show("nothing to remove")
            return
        printer.show("would remove our rules among these\n")
        printer.show("\n".join(listings.listing_lines([*listings.shown_tables(dumped)], None, is_whole=True)))
        return
    printer.warn(operations.cut_by_cleaning(namespace))
    removed = operations.clean(
        namespace, allow_host=settings[options.ALLOW_HOST], warn=lambda warning: printer.warn([warning])
    )
    printer.show("removed: nothing is captured any more" if removed else "nothing to remove")


def _dry_run(settings: Settings, namespace: str | None, host: PodFromInside, printer: Printer) -> None:
    """Print what would be sent into this pod if it were empty."""
    with InNamespace(namespace):
        printer.warn(resolve(settings, host)[1])
        choice = None
        try:
            choice = detect.detect(operations.request_of(settings)).choice
        except UnsupportedError as error:
            printer.warn([error.message])
        texts = operations.render(settings, host, choice=choice)
    printer.show("\n".join(f"# {title}\n{text}" for title, text in texts).removesuffix("\n"))


if __name__ == "__main__":
    sys.exit(main())

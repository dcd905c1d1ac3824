"""Each reason that keeps iptables from being written is an error that names what is missing."""

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from capture.analysis.compare import differences
from capture.backends.iptables import iptc_driver
from capture.backends.iptables.iptc_driver import IptcDriver
from capture.backends.iptables.restore import RestoreDriver
from capture.backends.iptables.tables import legacy_tables
from capture.errors import KernelError, PrivilegeError, ToolError, UnsupportedError
from capture.model.addresses import FAMILIES, IPV4
from capture.model.ruleset import NAT, OUTPUT, RAW, Accept, Chain, Redirect, Rule, Ruleset, Table
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from pytest_netns import Namespace
from support.captures.init_program import require_open_checkout
from support.rules.iptables_cases import TCP
from support.rules.iptables_drivers import DRIVERS, DriverCase

DESIRED = build_ruleset(CaptureConfig())
NOTHING = Ruleset(FAMILIES, ())
HOST_LOCK = "/run/xtables.lock"

each_driver = pytest.mark.parametrize("case", DRIVERS, ids=lambda case: case.name)


def as_no_user(work: Callable[[], object]) -> BaseException | None:
    """Return what ``work`` raises in a thread without capabilities (credentials(7): they are a thread's own)."""
    raised: list[BaseException] = []

    def without_capabilities() -> None:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.syscall(117, 65534, 65534, 65534) == 0  # setresuid(2) of this thread alone (x86_64)
        try:
            work()
        except (PrivilegeError, UnsupportedError, ToolError) as error:
            raised.append(error)

    thread = threading.Thread(target=without_capabilities)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def crash() -> str:
    """End this process as a crash would, but without a core or a trace."""
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


@each_driver
def test_a_write_without_the_capability_is_refused(here: Namespace, case: DriverCase) -> None:
    if case.name == "iptc":  # its calls are made by a process that imports it
        require_open_checkout()
    driver = case.driver()
    assert isinstance(as_no_user(lambda: driver.write(DESIRED, NOTHING, None)), PrivilegeError)
    driver.write(DESIRED, NOTHING, None)

    assert isinstance(as_no_user(driver.read), PrivilegeError)
    assert isinstance(as_no_user(lambda: driver.clean(DESIRED, None)), PrivilegeError)


@pytest.mark.parametrize("case", [case for case in DRIVERS if case.name != "netlink"], ids=lambda case: case.name)
def test_missing_extension_libraries_are_named(
    here: Namespace, case: DriverCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XTABLES_LIBDIR", "/nonexistent")

    with pytest.raises(UnsupportedError, match="extension") as caught:
        case.driver().write(DESIRED, NOTHING, None)

    assert "Install" in caught.value.remedy
    assert not case.driver().read().table(NAT) or not differences(NOTHING, case.driver().read())


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_a_write_without_the_programs_names_them(
    here: Namespace, variant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("capture.backends.iptables.programs.SYSTEM_DIRECTORIES", ())
    driver = RestoreDriver("nft" if variant == "nft" else "legacy")

    with pytest.raises(UnsupportedError, match=f"iptables-{variant}-restore is not installed"):
        driver.write(DESIRED, NOTHING, None)


def test_ipv6_that_the_kernel_does_not_have(here: Namespace) -> None:
    with pytest.raises(UnsupportedError, match="no IPv6"):
        RestoreDriver("nft").write(DESIRED, NOTHING.replace(families=("ipv4",)), None)


@each_driver
def test_a_rule_that_the_kernel_refuses_changes_nothing(here: Namespace, case: DriverCase) -> None:
    driver = case.driver()
    driver.write(DESIRED, driver.read(), None)
    before = case.saved_in_both(here)
    # REDIRECT needs a transport protocol, and only the nat table takes it
    refused = Table(RAW, (Chain(OUTPUT, (Rule(Redirect(1), (TCP,)),)),))

    with pytest.raises((KernelError, ToolError, UnsupportedError)):
        driver.write(DESIRED.replace(tables=(refused, *DESIRED.tables)), driver.read(), None)

    assert [line for lines in case.saved_in_both(here) for line in lines if "REDIRECT" in line] == [
        line for lines in before for line in lines if "REDIRECT" in line
    ]
    assert not differences(DESIRED, driver.read())


class TestTablesThatNftFilled:
    """iptables-nft cannot show every rule that nft can write into its tables."""

    def fill(self, namespace: Namespace) -> None:
        namespace.run(
            ["nft", "-f", "-"],
            stdin="table ip raw {\n chain OUTPUT {\n type filter hook output priority raw;\n"
            " numgen random mod 2 == 0 accept;\n }\n}\n",
        )

    def test_do_not_matter_where_nothing_is_to_be_written(self, here: Namespace) -> None:
        self.fill(here)
        driver = RestoreDriver("nft")

        driver.write(DESIRED, driver.read(), None)

        assert not differences(DESIRED, driver.read())

    def test_are_refused_where_something_is(self, here: Namespace) -> None:
        self.fill(here)
        driver = RestoreDriver("nft")
        live = driver.read()
        in_raw = Ruleset(FAMILIES, (Table(RAW, (Chain(OUTPUT, (Rule(Accept()),)),)),))

        with pytest.raises(UnsupportedError, match="table raw of IPv4 holds rules that nft wrote"):
            driver.write(in_raw, live, None)


class TestLocks:
    """The lock of the host is not used in a pod; that of the namespace is."""

    @each_driver
    def test_the_hosts_lock_is_not_waited_for(self, here: Namespace, case: DriverCase) -> None:
        with open(HOST_LOCK, "a", encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # another test holds it, which does as well
            started = time.monotonic()
            driver = case.driver()
            driver.write(DESIRED, driver.read(), None)

            assert time.monotonic() - started < 5
            assert not differences(DESIRED, driver.read())

    def test_the_lock_of_the_namespace_is_waited_for(self, here: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("capture.backends.iptables.restore.XTABLES_LOCK_TIMEOUT", 1)
        with open("/proc/thread-self/ns/net", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(ToolError, match="xtables lock") as caught:
                RestoreDriver("legacy").write(DESIRED, NOTHING, None)

        assert "Try again" in caught.value.remedy
        assert "kernel" not in str(caught.value)

    def test_the_lock_leaves_no_file_behind(self, here: Namespace, tmp_path: Path) -> None:
        files = set(os.listdir("/run")), set(os.listdir("/tmp"))  # noqa: S108  # is what must not change
        driver = RestoreDriver("legacy")
        driver.write(DESIRED, driver.read(), None)

        assert {name for name in os.listdir("/run") if "xtables" in name} <= files[0]
        assert {name for name in os.listdir("/tmp") if "xtables" in name} <= files[1]  # noqa: S108  # as above


class TestLegacyTables:
    """They come into being by a request, and stay."""

    @pytest.mark.parametrize("driver", [lambda: RestoreDriver("legacy"), IptcDriver], ids=["restore", "iptc"])
    def test_reading_makes_no_legacy_table(
        self, here: Namespace, driver: Callable[[], RestoreDriver | IptcDriver]
    ) -> None:
        assert driver().read() == NOTHING
        driver().clean(driver().read(), None)

        assert [legacy_tables(family) for family in FAMILIES] == [(), ()]

    @pytest.mark.parametrize("driver", [lambda: RestoreDriver("legacy"), IptcDriver], ids=["restore", "iptc"])
    def test_writing_makes_those_that_are_written(
        self, here: Namespace, driver: Callable[[], RestoreDriver | IptcDriver]
    ) -> None:
        driver().write(DESIRED.replace(families=("ipv4",)), NOTHING, None)
        driver().read()

        assert [legacy_tables(family) for family in FAMILIES] == [("nat",), ()]


class TestTheChildOfPythonIptables:
    def test_a_crash_is_an_error(self) -> None:
        with pytest.raises(ToolError, match="python-iptables crashed with signal 9"):
            iptc_driver._run_iptc("read the tables", lambda _: crash(), IPV4)

    def test_writing_and_cleaning_print_nothing(self, here: Namespace, capfd: pytest.CaptureFixture[str]) -> None:
        driver = IptcDriver()
        driver.write(DESIRED, driver.read(), None)
        driver.clean(driver.read(), None)

        assert capfd.readouterr() == ("", "")

    def test_a_write_leaves_no_child_and_no_descriptor(self, here: Namespace) -> None:
        def left() -> tuple[list[str], set[str]]:
            children = {
                pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()
            }
            return os.listdir("/proc/self/fd"), children

        before = left()
        driver = IptcDriver()
        driver.write(DESIRED, driver.read(), None)

        assert left() == before

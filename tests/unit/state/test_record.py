"""Records: what was applied, written so that the same rules come of it again, and read with distrust."""

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture.model.addresses import parse_address
from capture.model.routing import PolicyRoute
from capture.rules import build_ruleset
from capture.settings import options as option
from capture.settings.config import resolve
from capture.settings.settings import ExplicitValue, Settings
from capture.state import record
from capture.state.host_answers import HostAnswers, RecordingHost
from capture.state.record import Record, as_json, from_json
from capture.system.files import content_of
from capture.system.netns import namespace_id
from pytest_netns import NamespaceFactory, require
from support.captures.fake_pod import POD, FakePod, Texts, explicit

NO_NAMES = HostAnswers(users={}, groups={}, proxy_user="istio-proxy", families=("ipv4", "ipv6"), ipv6=True, servers=())
PLAIN = Record(Settings({}), NO_NAMES, build_ruleset(resolve(Settings({}), NO_NAMES)[0]), "nftables", "netlink")


def applied(texts: Texts, pod: FakePod) -> Record:
    """Return the record of a run, as ``apply`` makes it."""
    host = RecordingHost(pod)
    config, _ = resolve(explicit(texts), host)
    return Record(explicit(texts), host.answers(), build_ruleset(config), "iptables", "restore", "nft")


RICH_POD = FakePod(
    servers=("10.96.0.10", "fd00::a"), users={"envoy": 1500}, groups={"java": 202}, proxy_user="envoy", ipv6=True
)
RICH: Texts = {
    option.PROXY_GID: "java,5-9",
    option.REDIRECT_DNS: "true",
    option.EXCLUDED_OWNER_GROUPS: "java",
    option.OUTBOUND_NETWORKS: "10.1.2.3/8,fd00::/8",
    option.INTERCEPTION_MODE: "TPROXY",
    option.PROFILE: "current",
}


class TestHostAnswers:
    @pytest.mark.parametrize(
        "pod",
        [
            POD,
            RICH_POD,
            FakePod(addresses=("10.0.0.5",)),
            FakePod(addresses=("fd00::5", "169.254.0.1")),
            FakePod(addresses=()),
            FakePod(ipv6=False),
            FakePod(users={"istio-proxy": 1400}),
        ],
    )
    @pytest.mark.parametrize("texts", [{}, {option.REDIRECT_DNS: "true"}, {option.DUAL_STACK: "true"}])
    def test_resolving_with_the_facts_gives_what_resolving_in_the_pod_gave(self, texts: Texts, pod: FakePod) -> None:
        kept = applied(texts, pod)
        assert resolve(kept.settings, kept.answers)[0] == resolve(explicit(texts), pod)[0]
        assert build_ruleset(resolve(kept.settings, kept.answers)[0]) == kept.ruleset

    def test_answers_are_kept_as_far_as_they_were_requested(self) -> None:
        facts = applied(RICH, RICH_POD).answers
        assert (facts.users, facts.groups, facts.proxy_user) == ({"envoy": 1500}, {"java": 202}, "envoy")
        assert facts.families == ("ipv4", "ipv6")
        assert facts.servers == (parse_address("10.96.0.10"), parse_address("fd00::a"))

    def test_each_name_is_looked_up_once(self) -> None:
        looked_up: list[str] = []
        host = RecordingHost(FakePod())
        host._host = SimpleNamespace(user_id=looked_up.append, group_id=looked_up.append)
        assert [host.user_id("a"), host.user_id("a"), host.group_id("b"), host.group_id("b")] == [None] * 4
        assert looked_up == ["a", "b"]

    def test_an_unknown_name_is_remembered_as_such(self) -> None:
        assert applied({}, POD).answers.users == {"istio-proxy": None}


class TestJson:
    @pytest.mark.parametrize("kept", [PLAIN, applied({}, POD), applied(RICH, RICH_POD)])
    def test_a_written_value_is_read_back(self, kept: Record) -> None:
        assert from_json(as_json(kept)) == kept

    def test_stale_routes_are_recorded(self) -> None:
        kept = PLAIN.replace(stale_routes=(PolicyRoute("ipv4", 1337, 133), PolicyRoute("ipv6", 7, 200)))
        assert from_json(as_json(kept)) == kept
        assert kept.routes == kept.stale_routes
        assert applied(RICH, RICH_POD).routes == (PolicyRoute("ipv4", 1337, 133), PolicyRoute("ipv6", 1337, 133))

    def test_people_can_read_it(self) -> None:
        plain = json.loads(as_json(applied(RICH, RICH_POD)))
        assert plain["settings"]["--istio-service-cidr"] == ["10.1.2.3/8,fd00::/8", "command line"]
        assert plain["facts"]["name_servers"] == ["10.96.0.10", "fd00::a"]
        assert (plain["backend"], plain["driver"], plain["variant"]) == ("iptables", "restore", "nft")

    def test_only_what_decides_on_rules_is_kept(self) -> None:
        settings = explicit({option.DRY_RUN: "true", option.PROXY_PORT: "16001"})
        kept = from_json(as_json(PLAIN.replace(settings=settings)))
        assert isinstance(kept, Record)
        assert set(kept.settings.explicit) == {option.PROXY_PORT}

    @given(st.sampled_from(["*", "", "80", "8000-8100", " 80 , 443 "]), st.text())
    def test_a_text_that_was_given_comes_back_with_its_origin(self, text: str, origin: str) -> None:
        settings = Settings({option.INBOUND_PORTS: ExplicitValue(text, origin)})
        read = from_json(as_json(PLAIN.replace(settings=settings)))
        assert isinstance(read, Record)
        assert read.settings == settings


def broken(**changes: Any) -> str:
    return json.dumps({**json.loads(as_json(PLAIN)), **changes})


def broken_facts(**changes: Any) -> str:
    return broken(facts={**json.loads(as_json(PLAIN))["facts"], **changes})


NO_RECORDS = {
    "empty": "",
    "cut short": as_json(PLAIN)[:-20],
    "not JSON": "ISTIO_OUTPUT",
    "a list": "[]",
    "a number": "1",
    "null": "null",
    "an empty object": "{}",
    "nested too deeply": "[" * 100_000,
    "another version": broken(version=2),
    "no version": json.dumps({k: v for k, v in json.loads(as_json(PLAIN)).items() if k != "version"}),
    "settings are a list": broken(settings=[]),
    "settings are null": broken(settings=None),
    "an unknown option": broken(settings={"--no-such-option": ["1", "x"]}),
    "an option of another kind": broken(settings={"--dry-run": ["true", "x"]}),
    "a text without origin": broken(settings={"--envoy-port": ["1"]}),
    "a text that is a number": broken(settings={"--envoy-port": [1, "x"]}),
    "a text that is no port": broken(settings={"--envoy-port": ["http", "x"]}),
    "a name that was never looked up": broken(settings={"--proxy-uid": ["no-such-name", "x"]}),
    "facts are a list": broken(facts=[]),
    "no facts": broken(facts={}),
    "users are a list": broken_facts(users=[]),
    "users are a text": broken_facts(users="x"),
    "a family of its own": broken_facts(families=["ipv5"]),
    "families are a number": broken_facts(families=4),
    "servers are no addresses": broken_facts(name_servers=["dns.example"]),
    "a server is a number": broken_facts(name_servers=[1]),
    "the backend is a number": broken(backend=1),
    "a backend of another version": broken(backend="ebpf"),
    "a driver of another version": broken(driver="new"),
    "a variant of another version": broken(variant="new"),
    "the variant is null": broken(variant=None),
    "routes are numbers": broken(stale_routes=[1]),
    "a route of no family": broken(stale_routes=[["ipv5", 1, 2]]),
    "a route with too much": broken(stale_routes=[["ipv4", 1, 2, 3]]),
    "a route whose mark is a text": broken(stale_routes=[["ipv4", "1", 2]]),
}


FAULTS = {
    "empty": "it is not JSON (line 1 column 1: expected a value)",
    "not JSON": "it is not JSON (line 1 column 1: expected a value)",
    "nested too deeply": "it is not JSON (line 1 column 1: nested too deeply)",
    "no version": "'version' in it is missing or unknown",
    "an option of another kind": "'--dry-run' in it is missing or unknown",
    "a name that was never looked up": "--proxy-uid (x): invalid value 'no-such-name': expected user ids",
    "no facts": "'users' in it is missing or unknown",
    "a family of its own": "'ipv5' in it is missing or unknown",
    "a route of no family": "'ipv5' in it is missing or unknown",
    "cut short": "it is not JSON (line 1 column",
    "another version": "it is of version 2, and this program reads version 1",
    "an empty object": "'version' in it is missing or unknown",
    "an unknown option": "'--no-such-option' in it is missing or unknown",
    "a text that is no port": "--envoy-port (x): invalid value 'http': expected a port (1-65535)",
}
WRONG_VALUE = "a value in it is unknown or of the wrong type"
"""The fault of all others."""


@pytest.mark.parametrize("name", NO_RECORDS)
def test_a_text_that_is_no_record_is_none_and_its_fault_is_named(name: str, tmp_path: Path) -> None:
    assert isinstance(from_json(NO_RECORDS[name]), str)
    record.write(PLAIN, str(tmp_path / "state"))
    assert record.why_unusable(str(tmp_path / "state")) == ""
    path = Path(record.record_path(namespace_id(), str(tmp_path / "state")))
    path.write_text(NO_RECORDS[name])
    assert record.why_unusable(str(path.parent)).startswith(
        f"the record {path} cannot be used: {FAULTS.get(name, WRONG_VALUE)}"
    )


def test_a_defect_of_ours_is_no_fault_of_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise TypeError("a defect")

    monkeypatch.setattr(record, "build_ruleset", fail)
    monkeypatch.setattr(record, "_recent_records", {})
    with pytest.raises(TypeError, match="a defect"):
        from_json(as_json(PLAIN))


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = Path(record.record_path(namespace_id(), str(tmp_path)))
    assert record.why_unusable(str(tmp_path)) == ""
    path.write_bytes(b"\xff")
    assert record.why_unusable(str(tmp_path)) == f"the record {path} cannot be used: it is not UTF-8"
    path.unlink()
    os.mkfifo(path)
    assert record.why_unusable(str(tmp_path)) == f"the record {path} cannot be used: it is not a regular file"
    assert content_of(str(path)) == b"", "nor is it waited for"


def test_a_record_without_what_came_later_is_read() -> None:
    later = ("primary", "knows_proxy_environment")
    plain = json.loads(as_json(PLAIN))
    plain["facts"] = {name: fact for name, fact in plain["facts"].items() if name not in later}
    kept = from_json(json.dumps({name: value for name, value in plain.items() if name != "sysctls"}))
    assert isinstance(kept, Record)
    assert kept.ruleset == PLAIN.ruleset


scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "ipv4", "1337", "x"])
names = st.sampled_from(["--proxy-uid", "a"])
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))
MEMBERS = [name for name in json.loads(as_json(PLAIN)) if name != "facts"]
FACTS = list(json.loads(as_json(PLAIN))["facts"])


@given(anything, st.sampled_from([*MEMBERS, *FACTS, "facts"]))
def test_a_record_with_anything_in_it_is_one_or_none(value: object, where: str) -> None:
    kept = from_json(broken_facts(**{where: value}) if where in FACTS else broken(**{where: value}))
    if isinstance(kept, Record):
        assert from_json(as_json(kept)) == kept


class TestFiles:
    def test_a_record_is_written_read_and_forgotten(self, tmp_path: Path) -> None:
        state = str(tmp_path / "state")
        assert record.read(state) is None
        assert not record.write(PLAIN, state)
        assert record.read(state) == PLAIN
        other = applied(RICH, RICH_POD)
        assert not record.write(other, state)
        assert record.read(state) == other
        record.forget(state)
        assert record.read(state) is None
        record.forget(state)
        assert os.listdir(state) == []

    def test_only_root_may_read_records(self, tmp_path: Path) -> None:
        state = tmp_path / "state"
        before = os.umask(0)
        try:
            record.write(PLAIN, str(state))
        finally:
            os.umask(before)
        assert state.stat().st_mode & 0o777 == 0o700
        (kept,) = state.iterdir()
        assert kept.name == f"{namespace_id()}.json"
        assert kept.stat().st_mode & 0o777 == 0o600

    def test_the_same_again_is_not_written_again(self, tmp_path: Path) -> None:
        record.write(PLAIN, str(tmp_path))
        (kept,) = tmp_path.iterdir()
        before = kept.stat().st_ino
        record.write(PLAIN, str(tmp_path))
        assert kept.stat().st_ino == before

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"version": 1}', bytes(range(256))])
    def test_a_foreign_file_is_no_record_and_is_replaced(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / f"{namespace_id()}.json").write_bytes(content)
        assert record.read(str(tmp_path)) is None
        assert not record.write(PLAIN, str(tmp_path))
        assert record.read(str(tmp_path)) == PLAIN

    def test_where_nothing_can_be_kept_no_record_is_found(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        state = str(tmp_path / "file" / "state")
        assert record.write(PLAIN, state)
        assert record.read(state) is None
        record.forget(state)

    def test_a_directory_in_its_place_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / f"{namespace_id()}.json").mkdir()
        assert record.read(str(tmp_path)) is None
        assert record.write(PLAIN, str(tmp_path))
        assert [path.name for path in tmp_path.iterdir()] == [f"{namespace_id()}.json"]

    def test_a_full_disk_leaves_the_old_record_and_no_other_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record.write(PLAIN, str(tmp_path))

        def full(_descriptor: int, _content: bytes) -> int:
            raise OSError(errno.ENOSPC, "no space left on device")

        monkeypatch.setattr(os, "write", full)
        assert record.write(applied(RICH, RICH_POD), str(tmp_path))
        monkeypatch.undo()
        assert len(os.listdir(tmp_path)) == 1
        assert record.read(str(tmp_path)) == PLAIN

    def test_a_disk_that_takes_little_at_a_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write = os.write
        monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:7]))
        assert not record.write(PLAIN, str(tmp_path))
        assert record.read(str(tmp_path)) == PLAIN

    def test_many_writers_leave_one_whole_record(self, tmp_path: Path) -> None:
        of_lengths = [f"{number} " * (number * 1000) for number in range(8)]
        records = [PLAIN.replace(answers=PLAIN.answers.replace(proxy_user=text)) for text in of_lengths]
        seen: list[Record | None] = []
        stop = threading.Event()

        def watch() -> None:
            while not stop.is_set():
                seen.append(record.read(str(tmp_path)))

        watcher = threading.Thread(target=watch)
        writers = [
            threading.Thread(target=lambda kept=kept: [record.write(kept, str(tmp_path)) for _ in range(30)])
            for kept in records
        ]
        record.write(records[0], str(tmp_path))
        for thread in (watcher, *writers):
            thread.start()
        for thread in writers:
            thread.join()
        stop.set()
        watcher.join()
        assert len(os.listdir(tmp_path)) == 1
        assert record.read(str(tmp_path)) in records
        assert all(kept in records for kept in seen), "a reader saw half a record"


@pytest.mark.kernel
class TestNamespaces:
    def test_each_has_its_own(self, netns: NamespaceFactory, tmp_path: Path) -> None:
        one, two = netns(), netns()
        state = str(tmp_path)
        assert not one.call(record.write, PLAIN, state)
        assert two.call(record.read, state) is None
        assert one.call(record.read, state) == PLAIN
        two.call(record.forget, state)
        assert one.call(record.read, state) == PLAIN

    def test_a_new_namespace_never_has_the_record_of_one_that_is_gone(self) -> None:
        """Inode numbers come again; the kernel's cookie does not."""
        require(os.geteuid() == 0, "only root may have a network namespace")
        command = [
            "unshare",
            "--net",
            sys.executable,
            "-c",
            "from capture.system.netns import *; print(namespace_id())",
        ]
        identities = [subprocess.check_output(command, text=True).strip() for _ in range(5)]
        assert len({identity.split("-")[1] for identity in identities}) == 5

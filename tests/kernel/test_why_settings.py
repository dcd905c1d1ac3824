"""``why`` about what the settings leave out: on purpose, or by mistake, look-ups among it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from capture import operations
from capture.model.addresses import parse_address
from capture.operations import diagnosis
from capture.report.diagnosis_text import diagnosis_lines
from capture.settings import options as option
from capture.system.pod_host import PodFromInside
from cni.agent import examination
from pytest_netns import PodPair
from support.captures.agreeing import assert_the_connections_agree
from support.captures.diagnosed import DNS, ELSEWHERE, BrokenPod, assert_the_verbs_agree, given, packet, reached, why
from support.processes.waiting import wait_until
from support.traffic.proxies import one_proxy

if TYPE_CHECKING:
    pass


def test_the_agent_leaves_a_pod_alone_whose_settings_capture_nothing(pod_pair: PodPair) -> None:
    nothing = given("-b '' -i ''")
    operations.apply(nothing, pod_pair.pod.path)

    assert examination.diagnose(pod_pair.pod.path, nothing, is_starting=False).name == "left-alone"


@pytest.mark.parametrize(
    ("options", "port", "but", "notes"),
    [
        (
            "-b 80 -d 80 -i ''",
            15006,
            "; by its settings, nothing outbound is captured",
            ["nothing outbound is captured, because of -i ''", "restrict the capture: -b 80, -d 80"],
        ),
        (
            "-b '' -x 0.0.0.0/0",
            15001,
            "; by its settings, no outbound IPv4 and nothing inbound is captured",
            ["no outbound IPv4 is captured, because of -x 0.0.0.0/0", "nothing inbound is captured, because of -b ''"],
        ),
        (
            "-o 1-65535 -p 15006",
            15006,
            "; by its settings, nothing outbound is captured",
            ["nothing outbound is captured, because of -o 1-65535"],
        ),
        (
            "-b '' -i 10.96.0.0/12",
            15001,
            "; by its settings, no outbound IPv6 and nothing inbound is captured",
            [
                "no outbound IPv6 is captured, because of -i 10.96.0.0/12",
                "nothing inbound",
                "restrict the capture: -i 10.96.0.0/12",
            ],
        ),
        (
            "-b '' --ip-families ipv4",
            15001,
            "; by its settings, nothing inbound and no IPv6 is captured",
            ["IPv6 is not captured", "nothing inbound is captured, because of -b ''"],
        ),
        ("-o 1 -z 15001", 15001, "", ["to one port, 15001", "restrict the capture: -o 1"]),
    ],
)
def test_each_option_that_captures_less_is_noted_once(
    pod_pair: PodPair, options: str, port: int, but: str, notes: list[str]
) -> None:
    pod, _ = pod_pair
    pod.listener(*[(address, port) for address in ("0.0.0.0", "::")], label="proxy", uid=1337)
    with pod.entered():
        operations.apply(given(options))

    found = why(pod)

    assert (found.verdict, found.causes) == ("captured", ())
    headline = f"captured: this pod{but}" if but else "captured: nothing is wrong with this pod"
    assert next(diagnosis_lines(found)) == headline
    flags = {each.name: f"-{each.short}" for each in option.OPTIONS}
    texts = [note.message.replace(" (test)", "") for note in found.notes]
    for name, flag in flags.items():
        texts = [text.replace(f"{name} ", f"{flag} ") for text in texts]
    assert len(texts) == len(notes), texts
    assert all(map(str.__contains__, texts, notes)), texts
    assert_the_connections_agree(pod_pair, of_pod=assert_the_verbs_agree(pod))


def test_a_resolv_conf_with_other_servers_is_a_note(pod_pair: PodPair, tmp_path: Path) -> None:
    pod, peer = pod_pair
    peer.own_every_address()
    peer.listener((ELSEWHERE, 53), label="world")
    one_proxy(pod)
    pod.listener(("127.0.0.1", 15053), label="proxy", uid=1337)
    operations.apply(given("--redirect-dns"), pod.path, PodFromInside(servers=(parse_address("203.0.113.1"),)))
    (tmp_path / "resolv.conf").write_text(f"nameserver {ELSEWHERE}\n")
    own_files = f"mount --bind {tmp_path}/resolv.conf /etc/resolv.conf; touch {tmp_path}/ready; exec sleep 60"
    process = pod.popen(["unshare", "--mount", "sh", "-ec", own_files])
    wait_until((tmp_path / "ready").exists)

    found = diagnosis.why(namespace=f"/proc/{process.pid}/ns/net")

    assert found.causes == ()
    assert [note.kind for note in found.notes] == ["dns-not-captured"]
    assert f"names {ELSEWHERE}, and DNS is captured for 203.0.113.1 alone" in found.notes[0].message
    assert reached(BrokenPod("", goes="dns"), pod_pair) == "world"
    assert diagnosis.why(namespace=pod.path).notes == ()


def test_a_resolv_conf_that_is_a_fifo_keeps_nothing_waiting(pod_pair: PodPair, tmp_path: Path) -> None:
    pod, _ = pod_pair
    one_proxy(pod)
    pod.listener(("127.0.0.1", 15053), label="proxy", uid=1337)
    operations.apply(given("--redirect-dns"), pod.path, PodFromInside(servers=(parse_address("203.0.113.1"),)))
    os.mkfifo(tmp_path / "fifo")
    own_files = f"mount --bind {tmp_path}/fifo /etc/resolv.conf; touch {tmp_path}/ready; exec sleep 60"
    process = pod.popen(["unshare", "--mount", "sh", "-ec", own_files])
    wait_until((tmp_path / "ready").exists)

    assert diagnosis.why(namespace=f"/proc/{process.pid}/ns/net").notes == ()


def test_dns_without_a_known_name_server_is_not_told_to_redirect_dns(pod_pair: PodPair) -> None:
    pod, _ = pod_pair
    operations.apply(given(DNS.partition(" ")[0]), pod.path)

    found = why(pod, packet(BrokenPod("", goes="dns"), pod_pair))

    assert [cause.kind for cause in found.causes] == ["dns-not-captured"]
    assert "none was known" in found.causes[0].message
    assert found.causes[0].remedy.startswith("Run `capture apply --recorded --redirect-dns --capture")
    assert [note.kind for note in why(pod).notes] == ["dns-not-captured"]


def test_what_comes_in_as_outbound_is_no_circle(pod_pair: PodPair) -> None:
    pod, _ = pod_pair
    pod.listener(*[(address, 15001) for address in ("0.0.0.0", "::")], label="proxy", uid=1337)
    operations.apply(given("-k eth0"), pod.path)

    for sent in (None, packet(BrokenPod("", goes="in"), pod_pair)):
        found = why(pod, sent)
        assert (found.verdict, found.causes, found.notes) == ("captured", (), ())
    assert_the_verbs_agree(pod)

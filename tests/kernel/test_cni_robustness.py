"""With every runtime, disk and node: the plugin answers with an error of its own, and no defect, in time."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cni import codes, protocol
from pytest_netns import NamespaceFactory, Pod
from support.runtimes.cni_calls import ENVIRON, INJECTED, RESULT, call, configuration, error_of


@pytest.fixture
def pod(netns: NamespaceFactory) -> Pod:
    return netns.pod()


def in_shell(script: str, pod: Pod, stdin: object, **environ: str) -> subprocess.CompletedProcess[str]:
    """Start the plugin as ``$PLUGIN`` in a script of the shell."""
    return subprocess.run(
        ["bash", "-c", script],
        input=json.dumps(stdin),
        env=ENVIRON
        | {"PATH": os.environ["PATH"], "PLUGIN": shlex.join([sys.executable, "-m", "cni"]), "CNI_NETNS": pod.path}
        | environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def rules_of(pod: Pod) -> str:
    return pod.run(["nft", "list", "ruleset"]).stdout


def test_a_result_that_cannot_be_handed_back_writes_no_rule(pod: Pod) -> None:
    done = in_shell("$PLUGIN >&-", pod, configuration(INJECTED))
    assert (done.returncode, rules_of(pod)) == (1, "")
    assert "ADD: standard output is closed" in done.stderr
    deep: Any = {}
    for _ in range(20_000):
        deep = [deep]
    text = json.dumps(configuration(INJECTED))
    nested = text.replace('"prevResult": {', '"prevResult": {"x": ' + "[" * 20_000 + "]" * 20_000 + ", ", 1)
    for version in ("1.0.0", "0.4.0"):
        assert call(nested.replace('"cniVersion": "1.0.0"', f'"cniVersion": "{version}"', 1), CNI_NETNS=pod.path).stdout
        assert rules_of(pod) == ""


def test_a_full_disk_behind_standard_output_is_reported_on_standard_error(pod: Pod) -> None:
    done = in_shell("$PLUGIN >/dev/full", pod, configuration(INJECTED))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "the result cannot be written: No space left on device" in done.stderr
    assert in_shell("$PLUGIN >&-", pod, configuration(), CNI_COMMAND="DEL").returncode == 0


@pytest.mark.parametrize(
    ("redirection", "code"),
    [("<&-", protocol.DECODING_FAILURE), ("0>/dev/null", protocol.IO_FAILURE), ("<&- 2>&-", protocol.DECODING_FAILURE)],
)
def test_standard_input_that_cannot_be_read(pod: Pod, redirection: str, code: int) -> None:
    done = in_shell(f"$PLUGIN {redirection}", pod, {})
    assert json.loads(done.stdout)["code"] == code
    assert in_shell(f"$PLUGIN {redirection}", pod, {}, CNI_COMMAND="DEL").returncode == 0


def test_standard_input_that_does_not_block(pod: Pod) -> None:
    """As a runtime makes its pipes for itself; our end shares the flag if it is the same open file."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    environ = ENVIRON | {"PATH": os.environ["PATH"], "CNI_NETNS": pod.path}
    plugin = subprocess.Popen([sys.executable, "-m", "cni"], stdin=reader, stdout=subprocess.PIPE, env=environ)
    plugin.poll()
    os.write(writer, json.dumps(configuration({})).encode())
    os.close(writer)
    os.close(reader)
    answer = plugin.communicate(timeout=30)[0]
    assert json.loads(answer) == RESULT


@pytest.mark.parametrize("sent", ["", json.dumps(configuration(INJECTED))], ids=["silent", "never closed"])
def test_standard_input_that_never_ends(pod: Pod, sent: str) -> None:
    """Whatever arrived, no rule is written: more might have come. With the signal blocked, as a parent may leave it."""
    start = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\n"
    start += "import cni.__main__; cni.__main__.STDIN_DEADLINE = 1; cni.__main__.main()"
    environ = ENVIRON | {"PATH": os.environ["PATH"], "CNI_NETNS": pod.path}
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", start], stdin=reader, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ
    ) as plugin:
        os.write(writer, sent.encode())
        answer, complaint = plugin.communicate(timeout=20)
    os.close(writer)
    os.close(reader)
    assert (plugin.returncode, json.loads(answer)["code"]) == (1, protocol.IO_FAILURE)
    assert b"standard input was not closed within 1 seconds" in complaint
    assert rules_of(pod) == ""


@pytest.mark.parametrize(("tracked", "is_full"), [("100", False), ("253000", True)])
def test_a_full_conntrack_table_of_the_node_is_in_the_log(
    pod: Pod, tmp_path: Path, tracked: str, *, is_full: bool
) -> None:
    count, log = tmp_path / "count", tmp_path / "cni.log"
    count.write_text(f"{tracked}\n")
    script = (
        f"mount --bind {count} /proc/sys/net/netfilter/nf_conntrack_count && echo 262144 >{count}.max &&"
        f" mount --bind {count}.max /proc/sys/net/netfilter/nf_conntrack_max && $PLUGIN"
    )
    stdin = configuration(INJECTED, log_file=str(log))
    done = in_shell(f"unshare --mount bash -c {shlex.quote(script)}", pod, stdin)
    assert done.returncode == 0, done.stdout
    message = "the node's conntrack table is nearly full: 253000 of 262144 connections"
    assert (message in log.read_text()) is is_full


def test_a_number_that_is_too_large_for_python_is_shown_and_passed_on_as_it_is(pod: Pod) -> None:
    plain = json.dumps(configuration(INJECTED))
    for text, value in (
        (plain.replace('"name"', '"log_level": 1e999, "name"'), "invalid value 1e999"),
        (plain.replace('"name": "pods"', '"name": [1e999]'), "invalid value [1e999]"),
    ):
        error = error_of(call(text, CNI_NETNS=pod.path))
        assert (error["code"], value in error["msg"]) == (protocol.INVALID_CONFIGURATION, True)
        assert rules_of(pod) == ""
    other_version = plain.replace('"ips"', '"x": -1E400, "ips"').replace('"1.0.0"', '"0.4.0"', 1)
    done = call(other_version, CNI_NETNS=pod.path)
    assert (done.returncode, '"x": -1E400' in done.stdout) == (0, True)


@pytest.mark.parametrize(("command", "code"), [("ADD", codes.CANNOT_CAPTURE), ("STATUS", protocol.NOT_AVAILABLE)])
def test_a_node_without_proc(pod: Pod, command: str, code: int) -> None:
    """The namespace is bound to a name, so that its path has nothing of /proc."""
    script = 'mount --bind "$CNI_NETNS" /etc/hostname && umount -l /proc && CNI_NETNS=/etc/hostname exec $PLUGIN'
    stdin = configuration(INJECTED, cniVersion="1.1.0")
    done = in_shell(f"unshare --mount bash -c {shlex.quote(script)}", pod, stdin, CNI_COMMAND=command)
    error = json.loads(done.stdout)
    assert (error["code"], "/proc is not mounted" in error["msg"]) == (code, True)


def test_a_fifo_is_not_waited_for(pod: Pod, tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    error = error_of(call(configuration(INJECTED), CNI_NETNS=fifo))
    assert (error["code"], "is not a network namespace" in error["msg"]) == (protocol.INVALID_ENVIRONMENT, True)
    error = error_of(call(configuration(None, kubeconfig=fifo), CNI_NETNS=pod.path))
    assert (error["code"], "it is not a regular file" in error["msg"]) == (codes.BAD_KUBECONFIG, True)


def test_texts_of_a_pod_are_escaped_wherever_they_are_printed(pod: Pod) -> None:
    annotations = INJECTED | {"traffic.sidecar.istio.io/includeInboundPorts": "\033[31m80\u202e\n"}
    done = call(configuration(annotations), CNI_NETNS=pod.path)
    error = error_of(done)
    words = error["msg"] + error["details"].replace("\n", "") + done.stderr.removesuffix("\n")
    assert words.isprintable()
    assert "x1b[31m80" in words

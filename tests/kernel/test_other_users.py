"""Pods with ``hostUsers: false``: their network namespace belongs to a user namespace of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from capture.errors import ConfigurationError, KernelError
from capture.model.ruleset import OwnerUid, only
from capture.operations import apply, clean, dump, verify
from capture.settings.options import (
    BACKEND,
    CAPTURE_ALL_DNS,
    DRIVER,
    DROP_INVALID,
    EXCLUDED_OWNER_GROUPS,
    FORCE_IPTABLES_BINARY,
    INTERCEPTION_MODE,
    OWNER_GROUPS,
    PROXY_GID,
    PROXY_UID,
    REDIRECT_DNS,
    UID_PORT_EXCLUSIONS,
)
from capture.settings.settings import ExplicitValue, Settings
from capture.system.netns import is_own_user_namespace
from capture.system.pod_facts import read_facts
from capture.system.user_namespace import act_as_owner
from pytest_netns import NamespaceFactory, PodPair
from support.runtimes.cni_calls import INJECTED, RESULT, call, configuration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from capture.model.ruleset import Rule, Ruleset
    from capture.settings.options import Option

FIRST = 200_000
"""Which user of the node the pod's root is."""
APP, PROXY = FIRST + 1000, FIRST + 1337


@pytest.fixture
def pair(netns: NamespaceFactory) -> PodPair:
    return netns.pod_pair(first_user=FIRST)


def assert_captured(pair: PodPair) -> None:
    """Traffic of both families goes to the proxy both ways, and the proxy's own does not."""
    pod, peer = pair
    pod.listener(("0.0.0.0", 15001), ("::", 15001), label="outbound", uid=PROXY)
    pod.listener(("0.0.0.0", 15006), ("::", 15006), label="inbound", uid=PROXY)
    peer.listener(("0.0.0.0", 80), ("::", 80), label="elsewhere")
    for here, there in ((pod.ipv4, peer.ipv4), (pod.ipv6, peer.ipv6)):
        assert pod.client(APP).connect(there, 80).label == "outbound"
        assert pod.client(PROXY).connect(there, 80).label == "elsewhere"
        assert peer.client(1000).connect(here, 80).label == "inbound"


def test_the_owner_of_a_namespace_is_recognised(pair: PodPair) -> None:
    pod, peer = pair
    assert not pod.call(is_own_user_namespace)
    assert peer.call(is_own_user_namespace)
    inside = [sys.executable, "-c", "from capture.system.netns import *; print(is_own_user_namespace())"]
    seen = subprocess.check_output(["unshare", "--user", "--map-root-user", *inside], text=True)
    assert seen == "False\n"  # the owner is above: not shown
    assert subprocess.check_output(["unshare", "--user", "--net", "--map-root-user", *inside], text=True) == "True\n"


@pytest.mark.parametrize("backend", ["auto", "iptables", "nftables"])
def test_the_plugin_captures_such_a_pod(pair: PodPair, backend: str) -> None:
    container = f"other-users-{os.getpid()}"
    done = call(configuration(INJECTED, backend=backend), CNI_NETNS=pair.pod.path, CNI_CONTAINERID=container)
    assert (done.returncode, json.loads(done.stdout)) == (0, RESULT)
    assert_captured(pair)
    for command in ("CHECK", "DEL"):
        assert call(
            configuration(INJECTED), CNI_COMMAND=command, CNI_NETNS=pair.pod.path, CNI_CONTAINERID=container
        ).returncode == 0  # fmt: skip


def rules_of(ruleset: Ruleset) -> Iterator[Rule]:
    return (rule for table in ruleset.tables for chain in table.chains for rule in chain.rules)


def explicit(options: dict[Option[Any], str]) -> Settings:
    return Settings({option: ExplicitValue(text, "test") for option, text in options.items()})


@pytest.mark.parametrize(
    ("backend", "driver", "variant", "mode"),
    [
        ("nftables", "netlink", "", "REDIRECT"),
        ("nftables", "netlink", "", "TPROXY"),
        ("nftables", "libnftables", "", "REDIRECT"),
        ("iptables", "netlink", "nft", "REDIRECT"),
        ("iptables", "netlink", "nft", "TPROXY"),
        ("iptables", "restore", "nft", "REDIRECT"),
        ("iptables", "restore", "legacy", "TPROXY"),
        ("iptables", "iptc", "legacy", "REDIRECT"),
    ],
)
def test_every_driver_captures_such_a_pod(pair: PodPair, backend: str, driver: str, variant: str, mode: str) -> None:
    settings = explicit(
        {
            BACKEND: backend,
            DRIVER: driver,
            FORCE_IPTABLES_BINARY: variant,
            INTERCEPTION_MODE: mode,
            REDIRECT_DNS: "true",
            CAPTURE_ALL_DNS: "true",
            DROP_INVALID: "true",
        }
    )
    path = pair.pod.path
    applied = apply(settings, path)
    assert (applied.changed, applied.choice.driver) == (True, driver)
    assert verify(settings, path).holds
    assert not apply(settings, path).changed
    (shown,) = dump(path).live_sets
    assert OwnerUid((only(1337),)) in {match for rule in rules_of(shown.live) for match in rule.matches}
    if mode == "REDIRECT":  # a transparent proxy needs a capability that the listeners of the tests have not
        assert_captured(pair)
    changed = settings.with_option(PROXY_UID, "1500", "test")
    assert apply(changed, path).changed
    assert verify(changed, path).holds
    assert clean(path)
    assert dump(path).live_sets == ()


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
@pytest.mark.parametrize(
    ("option", "text"),
    [
        (PROXY_UID, "1337,70000"),
        (PROXY_GID, "70000"),
        (OWNER_GROUPS, "70000"),
        (EXCLUDED_OWNER_GROUPS, "5-70000"),
        (UID_PORT_EXCLUSIONS, "tcp:443:70000"),
    ],
)
def test_an_id_that_the_pod_has_not_is_refused_before_anything_is_written(
    pair: PodPair, backend: str, option: Option[Any], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"70000'.*hostUsers: false.*which has 0-65535") as refused:
        apply(explicit({BACKEND: backend, option: text}), pair.pod.path)
    assert refused.value.option == option.name
    assert pair.pod.run(["nft", "list", "ruleset"]).stdout == ""


def test_rules_in_iptables_there_stay_in_iptables(pair: PodPair) -> None:
    apply(explicit({BACKEND: "iptables"}), pair.pod.path)
    assert apply(explicit({PROXY_UID: "1500"}), pair.pod.path).choice.backend == "iptables"
    assert verify(explicit({PROXY_UID: "1500"}), pair.pod.path).holds


def test_listeners_have_the_users_that_the_pod_sees(pair: PodPair) -> None:
    pod = pair.pod
    apply(explicit({BACKEND: "iptables"}), pod.path)
    pod.listener(("0.0.0.0", 15001), ("::", 15001), label="outbound", uid=PROXY)
    pod.listener(("0.0.0.0", 15006), ("::", 15006), label="inbound", uid=FIRST + 1500)
    proxy = (only(1337),)
    with pod.entered():
        facts = read_facts(proxy)
    assert {listener.port: listener.uid for listener in facts.listeners or ()} == {15001: 1337, 15006: 1500}


def test_a_library_that_starts_threads_in_forked_processes_is_named(pair: PodPair) -> None:
    """As grpc does; in a process of its own, which keeps such a hook for good."""
    script = """
import os, threading
from capture.errors import CaptureError
from capture.operations import apply
from capture.settings.settings import Settings
hook = threading.Thread(target=threading.Event().wait, daemon=True)
os.register_at_fork(after_in_child=hook.start)
try:
    apply(Settings({}).with_option(BACKEND, "iptables", "test"))
except CaptureError as error:
    print(error)
"""
    imports = "from capture.settings.options import BACKEND"
    printed = pair.pod.run([sys.executable, "-c", imports + script], cwd=os.getcwd()).stdout
    assert "a library starts threads in forked ones (" in printed
    assert "GRPC_ENABLE_FORK_SUPPORT=false" in printed


def test_a_refusal_there_is_the_same_error(pair: PodPair) -> None:
    """The child's error arrives with its kind and words: here a chain of another program is in the way."""

    def fail() -> None:
        raise KernelError("add a rule", 22, "words of the kernel")

    with pytest.raises(KernelError, match=r"add a rule: Invalid argument \(words of the kernel\)") as raised:
        pair.pod.call(act_as_owner, fail, starts_programs=False)
    assert raised.value.errno == 22

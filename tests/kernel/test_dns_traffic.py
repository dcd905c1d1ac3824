"""DNS by traffic: each question of the app reaches the agent, and each of the agent's own reaches the server."""

import itertools
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from capture import operations
from capture.cli.watch import take_snapshot
from capture.model.addresses import parse_network
from capture.model.packet import Packet
from capture.operations import diagnosis
from capture.settings import options as option
from pytest_netns import Answer, Client, Pod, PodPair
from support.captures.fake_pod import FakePod
from support.captures.settings import DRIVERS, ONE_FOR_EACH_PLACE, Texts, settings

APP, AGENT = 1000, 1337
AGENT_PORT = 15053
SERVERS = ("198.51.100.53", "2001:db8:53::53")
"""Those of the pod's resolv.conf."""
ON_LOCALHOST = "127.0.0.53"
"""Another one of them, within the pod."""
OTHERS = ("203.0.113.53", "2001:db8:99::53")
"""Servers that resolv.conf does not name."""
SOURCE_PORTS = range(20000, 20016)

HOW: dict[str, Texts] = {
    "servers, classic": {option.REDIRECT_DNS: "true"},
    "servers, current": {option.REDIRECT_DNS: "true", option.PROFILE: "current"},
    "all, classic": {option.REDIRECT_DNS: "true", option.CAPTURE_ALL_DNS: "true"},
    "all, current": {option.REDIRECT_DNS: "true", option.CAPTURE_ALL_DNS: "true", option.PROFILE: "current"},
}


def serve(pair: PodPair) -> None:
    """Let servers listen, outside and on localhost, and the agent."""
    pod, peer = pair
    peer.own_every_address()
    peer.listener(("0.0.0.0", 53), ("::", 53), label="server")
    pod.listener((ON_LOCALHOST, 53), label="local server", uid=101)
    pod.listener(("0.0.0.0", AGENT_PORT), ("::", AGENT_PORT), label="agent", uid=AGENT)
    pod.listener(("0.0.0.0", 15001), ("::", 15001), label="proxy", uid=AGENT)


@pytest.fixture(scope="module")
def pair(module_pod_pair: PodPair) -> PodPair:
    serve(module_pod_pair)
    return module_pod_pair


@pytest.fixture(
    scope="module",
    params=[(driver, how) for driver in ONE_FOR_EACH_PLACE for how in HOW],
)
def captured(pair: PodPair, request: pytest.FixtureRequest) -> Iterator[tuple[PodPair, bool]]:
    """The pod, captured; and whether all DNS is, or that for the servers of resolv.conf."""
    driver, how = request.param
    host = FakePod(servers=(*SERVERS, ON_LOCALHOST))
    with pair.pod.entered():
        operations.apply(settings(DRIVERS[driver], HOW[how]), host=host)
    yield pair, how.startswith("all")
    with pair.pod.entered():
        operations.clean()


def forget_connections(pod: Pod) -> None:
    """Forget what connection tracking knows of an earlier test."""
    pod.run(["conntrack", "--flush"])


def unreplied(pod: Pod) -> list[str]:
    """Return the conversations about DNS of which the kernel has not seen the answer: it belonged to another zone."""
    lines = [
        line
        for family in ("ipv4", "ipv6")
        for line in pod.run(["conntrack", "--dump", "--family", family, "--proto", "udp"]).stdout.splitlines()
    ]
    assert any("dport=53 " in line for line in lines), "nothing was tracked at all"
    return [line for line in lines if "dport=53 " in line and "UNREPLIED" in line]


@dataclass
class Asking:
    """A user who queries name servers from few source ports, one question after the other."""

    client: Client
    explicit: Counter[str] = field(default_factory=Counter)

    def query(self, server: str, source_port: int) -> str:
        """Return who answers a question by UDP."""
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with self.client.open_socket(family, socket.SOCK_DGRAM) as question:
            question.settimeout(1)
            question.bind(("", source_port))
            question.connect((server, 53))
            question.send(b"?")
            try:
                label = Answer.decode(question.recv(4096)).label
            except (TimeoutError, ConnectionRefusedError) as error:
                label = type(error).__name__
        self.explicit[label] += 1
        return label


def converse(pod: Pod, rounds: int) -> tuple[Counter[str], Counter[str]]:
    """Let app and agent query the same servers from the same ports in turns; return who answered them."""
    app, agent = Asking(pod.client(APP)), Asking(pod.client(AGENT))
    ports = itertools.cycle(SOURCE_PORTS)
    for number in range(rounds):
        port, server = next(ports), SERVERS[number // len(SOURCE_PORTS) % 2]
        first, second = (app, agent) if number % 3 else (agent, app)
        first.query(server, port)
        second.query(server, port)
    return app.explicit, agent.explicit


def test_each_question_reaches_whom_it_should(captured: tuple[PodPair, bool]) -> None:
    (pod, _), _ = captured
    forget_connections(pod)
    app, agent = converse(pod, 200)

    assert app == {"agent": 200}
    assert agent == {"server": 200}
    assert unreplied(pod) == []


@pytest.mark.parametrize("driver", ["nftables-netlink", "iptables-nft"])
def test_ten_thousand_queries_get_their_own_answers(pod_pair: PodPair, driver: str) -> None:
    pod = pod_pair.pod
    serve(pod_pair)
    with pod.entered():
        operations.apply(settings(DRIVERS[driver], HOW["servers, classic"]), host=FakePod(servers=SERVERS))
    app, agent = converse(pod, 5000)

    assert app == {"agent": 5000}
    assert agent == {"server": 5000}


def test_without_zones_queries_come_back_to_the_agent(pod_pair: PodPair) -> None:
    """The test itself, tested: without the raw table the agent's questions come back to the agent."""
    pod = pod_pair.pod
    serve(pod_pair)
    with pod.entered():
        operations.apply(settings(DRIVERS["nftables-netlink"], HOW["servers, classic"]), host=FakePod(servers=SERVERS))
    pod.run(["nft", "delete", "table", "inet", "istio-proxy-raw"])
    _, agent = converse(pod, 30)

    assert agent["server"] < 30


def test_tcp_goes_to_the_agent_too(captured: tuple[PodPair, bool]) -> None:
    (pod, _), _ = captured
    for server in SERVERS:
        for _ in range(20):
            assert pod.client(APP).connect(server, 53).label == "agent"
            assert pod.client(AGENT).connect(server, 53).label == "server"
            assert pod.client(uid=0, gid=AGENT).connect(server, 53).label == "server"


def test_the_agent_is_known_by_user_or_group(captured: tuple[PodPair, bool]) -> None:
    (pod, _), _ = captured
    for uid, gid in ((AGENT, 0), (0, AGENT)):
        for server in SERVERS:
            assert pod.client(uid, gid).connect(server, 53, "udp").label == "server"
    assert pod.client(0, 0).connect(SERVERS[0], 53, "udp").label == "agent"


def test_other_servers_only_where_all_is_captured(captured: tuple[PodPair, bool]) -> None:
    (pod, _), all_dns = captured
    pod.run(["conntrack", "--flush"])  # other tests of the pod leave what a server within it answered
    for server in OTHERS:
        assert pod.client(APP).connect(server, 53, "udp").label == ("agent" if all_dns else "server")
        assert pod.client(APP).connect(server, 53).label == ("agent" if all_dns else "proxy")
        if all_dns:  # else upstream has no zone for answers of servers that the agent never queries
            assert pod.client(AGENT).connect(server, 53, "udp").label == "server"
    assert unreplied(pod) == []


def test_a_server_on_localhost(captured: tuple[PodPair, bool]) -> None:
    (pod, _), _ = captured
    for protocol in ("udp", "tcp"):
        for _ in range(10):
            assert pod.client(APP).connect(ON_LOCALHOST, 53, protocol).label == "agent"
            assert pod.client(AGENT).connect(ON_LOCALHOST, 53, protocol).label == "local server"
    # A server within the pod answers the agent in no zone, as upstream has it: nothing of that is translated.
    assert [line for line in unreplied(pod) if "zone=2" in line] == []


def test_other_udp_is_left_alone(captured: tuple[PodPair, bool]) -> None:
    (pod, peer), _ = captured
    listener = peer.listener(("0.0.0.0", 5353), label="other")
    assert pod.client(APP).connect(peer.ipv4, 5353, "udp").label == "other"
    listener.close()


@pytest.mark.parametrize("how", [{}, HOW["all, classic"]], ids=["no DNS", "all DNS"])
@pytest.mark.parametrize("driver", ["iptables-netlink", "nftables-netlink"])
def test_a_rule_of_older_upstream_leads_to_the_agent_in_every_view(pod_pair: PodPair, driver: str, how: Texts) -> None:
    """It is in none of our chains. In tables that we share it is our own: removed with the rest."""
    serve(pod_pair)
    pod = pod_pair.pod
    with pod.entered():
        operations.apply(settings(DRIVERS[driver], how))
        pod.run(["sh", "-c", "iptables-nft -t nat -I OUTPUT -p udp --dport 53 -j REDIRECT --to-ports 15053"])

        traced = operations.trace_packet(OTHERS[0], 53, protocol="udp")
        assert (traced.outcome, traced.step and traced.step.position) == ("dns", 1)
        assert not operations.verify().holds
        assert [each.case for each in diagnosis.why(traced.packet).causes] == ["circle"]  # it is for the agent, too
        assert pod.client(AGENT).connect(OTHERS[0], 53, "udp").label != "server"
        (watched, _) = take_snapshot(None, ("ipv4",)).flows
        rule = next(edge for table in watched.tables for edge in table.below if "15053" in edge.text)
        is_own = driver == "iptables-netlink"
        assert rule.to == "foreign: " * (not is_own) + "agent's DNS :15053"
        assert pod.client(APP).connect(OTHERS[0], 53, "udp", timeout=5).label == "agent"
        operations.clean()
    assert ("15053" in pod.run(["iptables-nft", "-t", "nat", "-S"]).stdout) != is_own


def test_zones_that_do_not_fit_are_the_cause_of_a_look_up_without_answer(pod_pair: PodPair) -> None:
    """Query and answer have to be tracked in one zone: without one of the rules for that no answer arrives."""
    pod = pod_pair.pod
    serve(pod_pair)
    look_up = Packet("udp", parse_network(OTHERS[0]), 53, source=parse_network(pod.ipv4), uid=APP, gid=APP)
    dead = 0
    for position in range(1, 6):
        with pod.entered():
            operations.apply(settings(DRIVERS["iptables-nft"], HOW["all, classic"]), host=FakePod())
        assert pod.run(["iptables", "-t", "raw", "-D", "ISTIO-OUTPUT-DNS", str(position)]).returncode == 0
        forget_connections(pod)
        is_answered = Asking(pod.client(APP)).query(OTHERS[0], SOURCE_PORTS[0]) == "agent"
        causes = pod.call(lambda: diagnosis.why(look_up)).causes
        assert any("zones of conntrack" in each.message for each in causes) != is_answered, (position, causes)
        dead += not is_answered
    assert dead


NFT_NOTRACK = (
    "nft add table inet x; nft 'add chain inet x c { type filter hook output priority %d; }';"
    " nft add rule inet x c udp dport 53 notrack"
)
NATIVE, IPTABLES = "nftables-netlink", "iptables-netlink"
UNTRACKED = [
    (NATIVE, "before ours, in a chain of nft", NFT_NOTRACK % -310, "agent"),
    (NATIVE, "behind ours, in a chain of nft", NFT_NOTRACK % -290, "agent"),
    (IPTABLES, "before ours, in a chain of nft", NFT_NOTRACK % -310, "server"),
    (IPTABLES, "behind ours, in a chain of nft", NFT_NOTRACK % -290, "agent"),
    (IPTABLES, "before ours, in a table", "iptables -t raw -I OUTPUT -p udp --dport 53 -j NOTRACK", "server"),
    (IPTABLES, "behind ours, in a table", "iptables -t raw -A OUTPUT -p udp --dport 53 -j NOTRACK", "agent"),
]


@pytest.mark.parametrize(
    ("driver", "command", "expected"),
    [pytest.param(driver, *rest, id=f"{driver}, {name}") for driver, name, *rest in UNTRACKED],
)
def test_a_zone_and_notrack_in_their_order(pod_pair: PodPair, driver: str, command: str, expected: str) -> None:
    """A zone of nft has untracked packets tracked, one of iptables does not; NOTRACK does nothing behind either."""
    serve(pod_pair)
    pod = pod_pair.pod
    with pod.entered():
        operations.apply(settings(DRIVERS[driver], HOW["all, classic"]))
        pod.run(["sh", "-ec", command])

        traced = operations.trace_packet(SERVERS[0], 53, protocol="udp")
        verified = operations.verify()
        causes = diagnosis.why(traced.packet).causes

    assert [each.kind for each in causes] == ["foreign-rule"] * (expected == "server"), causes
    assert Asking(pod.client(APP)).query(SERVERS[0], 0) == expected
    assert (traced.outcome, traced.is_certain) == ("dns" if expected == "agent" else "direct", True)
    assert (verified.holds, verified.is_certain) == (expected == "agent", True)

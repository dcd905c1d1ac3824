"""iptables by netlink against iptables-nft itself: what either writes is the same to the kernel."""

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capture.analysis.canonical import canonical
from capture.analysis.compare import differences
from capture.analysis.ownership import without_foreign_rules
from capture.backends.iptables import xt_layouts
from capture.backends.iptables.driver import IptablesDriver
from capture.backends.iptables.netlink import IptablesNetlinkDriver
from capture.backends.iptables.restore import RestoreDriver
from capture.backends.nf_tables.names import HOOKS, Hook
from capture.errors import CaptureError, KernelError, UnsupportedError
from capture.model.addresses import FAMILIES, IPV4, IPV6, Network
from capture.model.ruleset import (
    NAT,
    OUTPUT,
    PREROUTING,
    TABLES,
    Chain,
    Destination,
    DestinationPort,
    Jump,
    OwnerGid,
    OwnerUid,
    Return,
    Rule,
    Ruleset,
    Source,
    SourcePort,
    Table,
    TableName,
    only,
)
from capture.netlink import nfnetlink
from capture.netlink.attributes import attribute, decode_attributes
from capture.netlink.nfnetlink import NFPROTO_UNSPEC, RulesetChangedError, has_extension, open_nfnetlink, read_objects
from capture.rules import build_ruleset
from capture.settings.config import resolve
from capture.settings.options import DROP_INVALID, INTERCEPTION_MODE, REDIRECT_DNS, RULE_COMMENTS, RULE_LOGS
from capture.settings.settings import ExplicitValue, Settings
from capture.system.pod_host import AnyPod
from pytest_netns import Namespace, NamespaceFactory
from support.generators.rules import rulesets
from support.rules.iptables_cases import CASES, OWN, TO_CHAIN, Case
from support.rules.iptables_drivers import writes_as_we_do

NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE = 1, 4, 7  # linux/netfilter/nf_tables.h
NFTA_TABLE_HANDLE = 4

CHECKOUT = Path(__file__).parents[2]

NOTHING = Ruleset(FAMILIES, ())
TO_OUTPUT = Rule(Jump("ISTIO_OUTPUT"))
SIDECAR = build_ruleset(resolve(Settings({}), AnyPod())[0])
TRANSPARENT_DNS = build_ruleset(
    resolve(
        Settings(
            {
                INTERCEPTION_MODE: ExplicitValue("TPROXY", "test"),
                REDIRECT_DNS: ExplicitValue("true", "test"),
                DROP_INVALID: ExplicitValue("true", "test"),
                RULE_COMMENTS: ExplicitValue("true", "test"),
                RULE_LOGS: ExplicitValue("true", "test"),
            }
        ),
        AnyPod(),
    )[0]
)
IN_BYTES = ("statistic", "string")
"""Matches of others for which we have no words, only bytes."""
READABLE = [case for case in CASES if not case.name.startswith(IN_BYTES)]

in_one_namespace = settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def own(module_netns: NamespaceFactory) -> Namespace:
    return module_netns("own")


@pytest.fixture(scope="module")
def reference(module_netns: NamespaceFactory) -> Namespace:
    return module_netns("reference")


def kernel_state(namespace: Namespace) -> list[tuple[int, bytes]]:
    """Return all tables, chains and rules as the kernel dumps them, handles included but those of tables."""
    with namespace.call(open_nfnetlink) as netfilter:
        return [
            (family, b"".join(attribute(kind, value) for kind, value in without_table_handle(message, attributes)))
            for message in (NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE)
            for family, attributes in read_objects(netfilter, message, NFPROTO_UNSPEC, b"", "dump")
        ]


def require_same(own: Namespace, reference: Namespace) -> None:
    """Demand that the kernel has the same of both; where iptables writes other bytes, that it lists the same."""
    if writes_as_we_do():
        assert kernel_state(own) == kernel_state(reference)
    else:
        assert saved(own) == saved(reference)


def without_table_handle(message: int, attributes: bytes) -> Iterator[tuple[int, bytes]]:
    """A namespace numbers its tables, and goes on counting when they are gone."""
    for kind, value in decode_attributes(attributes):
        if (message, kind) != (NFT_MSG_GETTABLE, NFTA_TABLE_HANDLE):
            yield kind, value


def listings(namespace: Namespace) -> list[str]:
    """Return what the programs print, without the time."""
    programs = ("iptables-nft", "ip6tables-nft")
    commands = [
        *([f"{program}-save", "-c"] for program in programs),
        *([program, "-t", table, "-nvL"] for program in programs for table in TABLES),
    ]
    if writes_as_we_do():
        commands += [["nft", "list", "ruleset"], ["nft", "--debug=netlink", "list", "ruleset"]]
    return [
        "".join(line for line in namespace.run(command).stdout.splitlines(keepends=True) if not line.startswith("#"))
        for command in commands
    ]


def filtered(ruleset: Ruleset, keeps: Callable[[Rule], bool]) -> Ruleset:
    """Return the rule set with the rules that ``keeps`` accepts."""
    return ruleset.with_chains(lambda _, chain: chain.replace(rules=tuple(filter(keeps, chain.rules))))


def excludes_many(rule: Rule) -> bool:
    """Return whether a rule excludes so many entries, each a match of iptables, that it may not fit.

    The kernel refuses rules of more than 4 kB, iptables-restore lines of more than 255 words.
    """
    return any(
        match.negated and len(getattr(match, match.__match_args__[0])) > 8
        for match in rule.matches
        if isinstance(match, Source | Destination | OwnerUid | OwnerGid)
    )


def printed_wrongly_by_iptables(rule: Rule) -> bool:
    """Return whether iptables 1.8.9 cannot write a rule, or writes another one.

    It has the kernel compare no bytes for ``! -s 0.0.0.0/0``, which the kernel refuses, and compares two excluded
    ports in one piece, which excludes the pair and not each of them.
    """
    first: dict[type, Source | Destination] = {}
    for match in rule.matches:
        if isinstance(match, Source | Destination):
            first.setdefault(type(match), match)
    excluded = {
        type(match)
        for match in rule.matches
        if isinstance(match, SourcePort | DestinationPort) and match.negated and len(match.ports) == 1
    }
    excludes_everything = any(match.negated and match.networks[0].is_everything for match in first.values())
    return excludes_everything or excluded == {SourcePort, DestinationPort}


def with_rules_of_iptables(ruleset: Ruleset) -> Ruleset:
    """Return the rule set without what iptables cannot express."""
    return filtered(ruleset, lambda rule: not excludes_many(rule) and not printed_wrongly_by_iptables(rule))


def without_large_rules(ruleset: Ruleset) -> Ruleset:
    """Return the rule set without rules that exclude more than nf_tables takes in one rule."""
    return filtered(ruleset, lambda rule: not excludes_many(rule))


def every_case() -> Ruleset:
    """Return a rule set with each match and each verdict there is."""
    return Ruleset(FAMILIES, tuple(Table(table, chains_of_cases(table)) for table in TABLES), has_comments=True)


def chains_of_cases(table: TableName) -> tuple[Chain, ...]:
    rules = tuple(case.rule for case in OWN if case.table == table)
    return (Chain("ISTIO_OUTPUT", rules), Chain(TO_CHAIN, (Rule(Return()),)))


@st.composite
def foreign_tables(draw: st.DrawFn) -> str:
    """Input of iptables-restore with foreign rules, in any of the tables or none."""
    text = ""
    for table in draw(st.sets(st.sampled_from(TABLES)).map(sorted)):
        text += f"*{table}\n:DOCKER -\n:ISTIO_OLD -\n"
        chains = {"raw": ("PREROUTING", "OUTPUT"), "nat": ("OUTPUT", "POSTROUTING")}.get(table, ("INPUT", "OUTPUT"))
        for chain in (*chains, "DOCKER"):
            for rule in draw(st.lists(st.sampled_from(FOREIGN_RULES), max_size=4)):
                if chain != "DOCKER" or "DOCKER" not in rule:
                    text += f"-A {chain} {rule}\n"
        text += "COMMIT\n"
    return text


FOREIGN_RULES = (
    "-j DOCKER",
    "-j RETURN",
    "-p tcp -m multiport --dports 80,443 -j ACCEPT",
    "-m limit --limit 5/sec -j LOG",
    "-m statistic --mode random --probability 0.50000000000 -j ACCEPT",
    '-m string --string "-j ISTIO_OUTPUT" --algo bm',
    "-m addrtype --dst-type LOCAL",
    "-m comment --comment foreign -j ACCEPT",
)


def handles_of_rules(namespace: Namespace) -> list[str]:
    """Return all rules outside of our chains as nft lists them, each with its table, chain and handle."""
    lines: list[str] = []
    table = chain = ""
    for line in namespace.run(["nft", "-a", "list", "ruleset"]).stdout.splitlines():
        words = line.split()
        if words[:1] == ["table"]:
            table = " ".join(words[1:3])
        elif words[:1] == ["chain"]:
            chain = words[1]
        elif "# handle" in line and not chain.startswith("ISTIO"):
            lines.append(f"{table} {chain}: {line.strip()}")
    return lines


def write(namespace: Namespace, driver: IptablesDriver, ruleset: Ruleset, recorded: Ruleset | None = None) -> None:
    """Make our rules those of a rule set, as ``capture.operations`` does."""
    with namespace.entered():
        driver.write(ruleset, driver.read(), recorded)


def write_in_both(own: Namespace, reference: Namespace, ruleset: Ruleset) -> None:
    """Write a rule set into two empty namespaces, ourselves and by iptables-nft-restore."""
    for namespace, driver in ((own, IptablesNetlinkDriver()), (reference, RestoreDriver("nft"))):
        namespace.run(["nft", "flush", "ruleset"])
        namespace.call(driver.write, ruleset, NOTHING, None)


def clean(namespace: Namespace, driver: IptablesDriver, recorded: Ruleset | None = None) -> None:
    """Remove our rules."""
    with namespace.entered():
        driver.clean(driver.read(), recorded)


def nft_listing(namespace: Namespace) -> str:
    return namespace.run(["nft", "list", "ruleset"]).stdout


def saved(namespace: Namespace) -> list[str]:
    """Return the rules as iptables-save prints them, for both families."""
    printed = (namespace.run([program]).stdout for program in ("iptables-nft-save", "ip6tables-nft-save"))
    return ["".join(line for line in text.splitlines(keepends=True) if line[0] != "#") for text in printed]


class TestTheSameAsIptables:
    """Our own bytes and those of iptables-nft-restore for the same rules."""

    @in_one_namespace
    @given(ruleset=rulesets().map(with_rules_of_iptables))
    def test_the_kernel_cannot_distinguish_them_and_both_read_the_same(
        self, own: Namespace, reference: Namespace, ruleset: Ruleset
    ) -> None:
        write_in_both(own, reference, ruleset)
        require_same(own, reference)
        has_rules = bool(kernel_state(own))
        assert own.call(IptablesNetlinkDriver().has_exactly, ruleset) == has_rules
        assert own.call(IptablesNetlinkDriver().read) == own.call(RestoreDriver("nft").read)

    @in_one_namespace
    @given(ruleset=rulesets().map(without_large_rules))
    def test_a_written_value_is_read_back(self, own: Namespace, ruleset: Ruleset) -> None:
        """Also what iptables itself prints wrongly, and over the rule set that the example before left behind."""
        own.call(IptablesNetlinkDriver().write, ruleset, NOTHING, None)
        live = own.call(IptablesNetlinkDriver().read)
        for family in FAMILIES:
            assert canonical(without_foreign_rules(live), family) == canonical(without_foreign_rules(ruleset), family)

    @pytest.mark.parametrize("ruleset", [SIDECAR, every_case()], ids=["sidecar", "every match and verdict"])
    def test_every_program_prints_the_same(self, own: Namespace, reference: Namespace, ruleset: Ruleset) -> None:
        write_in_both(own, reference, ruleset)
        require_same(own, reference)
        assert listings(own) == listings(reference)

    @pytest.mark.parametrize("case", READABLE, ids=lambda case: case.name)
    def test_rules_of_others_are_read_in_the_words_of_iptables(self, own: Namespace, case: Case) -> None:
        own.run(["nft", "flush", "ruleset"])
        program = "iptables-nft-restore" if case.rule.family == IPV4 else "ip6tables-nft-restore"
        own.run([program], stdin=f"*{case.table}\n:CHAIN -\n:{TO_CHAIN} -\n-A CHAIN {case.text}\nCOMMIT\n")
        assert own.call(IptablesNetlinkDriver().read) == own.call(RestoreDriver("nft").read)

    @pytest.mark.parametrize(
        ("program", "table", "text"),
        [
            ("iptables", "nat", "-p tcp -j DNAT --to-destination 10.0.0.1:80"),
            ("iptables", "nat", "-p tcp -j DNAT --to-destination 10.0.0.1-10.0.0.9:80-90 --random --persistent"),
            ("iptables", "nat", "-p tcp -j SNAT --to-source 10.0.0.1:1024-2048 --random-fully"),
            ("iptables", "nat", "-p tcp -j MASQUERADE --to-ports 1024-2048 --random"),
            ("iptables", "nat", "-p tcp -j REDIRECT --to-ports 80 --random"),
            ("iptables", "nat", "-p icmp -m icmp --icmp-type 8 -j ACCEPT"),
            ("iptables", "nat", "-p icmp -m icmp ! --icmp-type 3/1 -j ACCEPT"),
            ("iptables", "nat", "-m addrtype --dst-type LOCAL ! --src-type UNICAST,BROADCAST -j ACCEPT"),
            ("iptables", "nat", "-m addrtype --dst-type LOCAL --limit-iface-in -j ACCEPT"),
            ("iptables", "nat", "-m limit --limit 5/min -j ACCEPT"),
            ("iptables", "nat", "-m limit --limit 7/sec --limit-burst 9 -j ACCEPT"),
            ("iptables", "nat", "! -p tcp ! -s 10.0.0.0/8 ! -i eth0 -j ACCEPT"),
            ("iptables", "nat", "-p esp -j ACCEPT"),
            ("iptables", "nat", "-p 99 -j ACCEPT"),
            ("iptables", "nat", "-p tcp -m tcp ! --tcp-flags SYN,ACK NONE -j ACCEPT"),
            ("iptables", "nat", "-p tcp -m tcp --sport 53 --dport 53 -j ACCEPT"),
            ("iptables", "nat", "-p tcp -m multiport --ports 53,80 -j ACCEPT"),
            ("iptables", "nat", "-m conntrack ! --ctstate SNAT,DNAT -j ACCEPT"),
            ("iptables", "nat", "-m iprange ! --src-range 10.0.0.1-10.0.0.3 --dst-range 10.0.0.0-10.0.0.5 -j ACCEPT"),
            ("iptables", "nat", "-m comment --comment first -m comment --comment second -j ACCEPT"),
            ("iptables", "mangle", "-p tcp -j TPROXY --on-port 80 --on-ip 10.0.0.1 --tproxy-mark 0x1/0x1"),
            ("iptables", "mangle", "-j CONNMARK --set-xmark 0x1/0xff"),
            ("iptables", "mangle", "-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff"),
            ("iptables", "mangle", '-j LOG --log-prefix "a b" --log-level 7 --log-uid --log-tcp-options'),
            ("iptables", "raw", "-j TRACE"),
            ("iptables", "nat", "-m statistic --mode random --probability 0.33333333349 -j ACCEPT"),
            ("iptables", "nat", "-m statistic --mode random ! --probability 0.50000000000 -j ACCEPT"),
            ("iptables", "nat", "-m statistic --mode nth --every 3 --packet 2 -j ACCEPT"),
            ("iptables", "nat", "-m statistic --mode nth ! --every 2 --packet 0 -j ACCEPT"),
            ("iptables", "mangle", "-j NFQUEUE --queue-num 5 --queue-bypass"),
            ("iptables", "mangle", "-j NFQUEUE --queue-balance 0:3 --queue-bypass --queue-cpu-fanout"),
            ("iptables", "mangle", "-m socket --transparent --nowildcard -j ACCEPT"),
            ("iptables", "raw", "-m rpfilter --loose --validmark --accept-local --invert -j ACCEPT"),
            ("iptables", "raw", "-j CT --notrack --zone 7"),
            ("ip6tables", "nat", "-p tcp -j DNAT --to-destination [fd00::1]:80"),
            ("ip6tables", "nat", "-p tcp -j SNAT --to-source fd00::1-fd00::9"),
            ("ip6tables", "nat", "-p tcp -j MASQUERADE --to-ports 80-90"),
            ("ip6tables", "nat", "-p ipv6-icmp -m icmp6 --icmpv6-type 128 -j ACCEPT"),
            ("ip6tables", "nat", "-s fd00::/ffff:0:ffff:: -j ACCEPT"),
            ("ip6tables", "mangle", "-p tcp -j TPROXY --on-port 80 --on-ip fd00::1 --tproxy-mark 0x0/0x0"),
        ],
    )
    def test_matches_that_the_model_lacks_are_printed_as_by_iptables(
        self, own: Namespace, program: str, table: str, text: str
    ) -> None:
        own.run(["nft", "flush", "ruleset"])
        own.run([f"{program}-nft-restore"], stdin=f"*{table}\n:CHAIN -\n-A CHAIN {text}\nCOMMIT\n")
        assert own.call(IptablesNetlinkDriver().read) == own.call(RestoreDriver("nft").read)

    def test_counters_are_read(self, netns: NamespaceFactory) -> None:
        namespace = netns()
        namespace.call(IptablesNetlinkDriver().write, SIDECAR, NOTHING, None)
        for address in ("127.0.0.1", "::1"):
            namespace.client(uid=1000).connect(address, 80)
        own, reference = namespace.call(IptablesNetlinkDriver().read), namespace.call(RestoreDriver("nft").read)
        assert counted(own) == counted(reference)
        assert any(packets for packets, _ in counted(own))


def counted(ruleset: Ruleset) -> list[tuple[int, int]]:
    """Return packets and bytes of all rules, in their order."""
    counters = [rule.counters for table in ruleset.tables for chain in table.chains for rule in chain.rules]
    return [(each.packets, each.bytes) for each in counters if each]


class TestNextToForeignRules:
    """Foreign rules stay where they are, and none of our own is left in the end."""

    @in_one_namespace
    @given(data=st.data())
    def test_the_same_happens_to_them_as_with_iptables(
        self, own: Namespace, reference: Namespace, data: st.DataObject
    ) -> None:
        texts = data.draw(st.tuples(foreign_tables(), foreign_tables()))
        first, second = (data.draw(rulesets(FAMILIES).map(with_rules_of_iptables)) for _ in range(2))
        both: list[tuple[Namespace, IptablesDriver]] = [
            (own, IptablesNetlinkDriver()),
            (reference, RestoreDriver("nft")),
        ]
        for namespace, _ in both:
            namespace.run(["nft", "flush", "ruleset"])
            for program, text in zip(("iptables-nft-restore", "ip6tables-nft-restore"), texts, strict=True):
                namespace.run([program], stdin=text)
        foreign = handles_of_rules(own)
        before = nft_listing(own)

        for namespace, driver in both:
            write(namespace, driver, first)
        assert saved(own) == saved(reference)
        for namespace, driver in both:
            write(namespace, driver, second, first)
        assert saved(own) == saved(reference)
        assert [handle for handle in handles_of_rules(own) if handle in foreign] == foreign
        for namespace, driver in both:
            clean(namespace, driver, second)
        assert handles_of_rules(own) == foreign
        assert saved(own) == saved(reference)
        if not any(chain in before for chain in ("chain PREROUTING", "chain OUTPUT")):
            assert nft_listing(own) == before

    @pytest.mark.parametrize(
        "before",
        [
            "",
            "*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n",
            "*nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\nCOMMIT\n",
            "*raw\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n",
            "*mangle\n-A PREROUTING -j DROP\n-A OUTPUT -j ACCEPT\nCOMMIT\n",
            "*nat\n:DOCKER -\n-A OUTPUT -p udp -j DOCKER\n-A DOCKER -j RETURN\nCOMMIT\n",
            "*nat\n:PREROUTING DROP\nCOMMIT\n",
            "*filter\n-A INPUT -j ACCEPT\nCOMMIT\n",
        ],
    )
    @pytest.mark.parametrize("ruleset", [SIDECAR, TRANSPARENT_DNS], ids=["redirect", "tproxy-dns"])
    def test_a_namespace_is_left_as_it_was_found(self, netns: NamespaceFactory, before: str, ruleset: Ruleset) -> None:
        namespace, driver = netns(), IptablesNetlinkDriver()
        for program in ("iptables-nft-restore", "ip6tables-nft-restore"):
            namespace.run([program, "--noflush"], stdin=before)
        found = [nft_listing(namespace), *saved(namespace)]
        write(namespace, driver, ruleset)
        assert [nft_listing(namespace), *saved(namespace)] != found
        for other in (TRANSPARENT_DNS, SIDECAR):
            write(namespace, driver, other)
        clean(namespace, driver)
        assert [nft_listing(namespace), *saved(namespace)] == found

    def test_rules_that_others_added_meanwhile_stay(self, netns: NamespaceFactory) -> None:
        namespace, driver = netns(), IptablesNetlinkDriver()
        write(namespace, driver, SIDECAR)
        namespace.run(["iptables-nft", "-t", "nat", "-A", "OUTPUT", "-d", "192.0.2.1", "-j", "ACCEPT"])
        namespace.run(["nft", "add", "set", "ip6", "nat", "foreign", "{ type ipv6_addr; }"])
        clean(namespace, driver)
        listed = " ".join(nft_listing(namespace).split())
        assert listed.replace("priority dstnat;", "priority -100;") == (
            "table ip nat { chain OUTPUT { type nat hook output priority -100; policy accept;"
            " ip daddr 192.0.2.1 counter packets 0 bytes 0 accept } }"
            " table ip6 nat { set foreign { type ipv6_addr } }"
        )

    def test_tables_of_another_owner_stay(self, netns: NamespaceFactory) -> None:
        namespace, driver = netns(), IptablesNetlinkDriver()
        namespace.run(["nft", "-f", "-"], stdin="table inet nat {\nchain PREROUTING {\n}\n}\ntable bridge nat {\n}\n")
        found = nft_listing(namespace)
        assert namespace.call(driver.read) == NOTHING
        write(namespace, driver, SIDECAR)
        clean(namespace, driver)
        assert nft_listing(namespace) == found


class TestQuickLook:
    """The answer of ``has_exactly`` without decoding."""

    @pytest.fixture
    def captured(self, netns: NamespaceFactory) -> Namespace:
        namespace = netns()
        write(namespace, IptablesNetlinkDriver(), SIDECAR)
        assert namespace.call(IptablesNetlinkDriver().has_exactly, SIDECAR)
        return namespace

    def test_counters_do_not_count(self, captured: Namespace) -> None:
        captured.client(uid=1000).connect("127.0.0.1", 80)
        assert captured.call(IptablesNetlinkDriver().has_exactly, SIDECAR)

    def test_rules_that_iptables_wrote_need_a_closer_look(self, netns: NamespaceFactory) -> None:
        namespace = netns()
        write(namespace, RestoreDriver("nft"), TRANSPARENT_DNS)
        # Other bytes take the long way: they are read, and compared.
        assert namespace.call(IptablesNetlinkDriver().has_exactly, TRANSPARENT_DNS) == writes_as_we_do()

    @pytest.mark.parametrize(
        "command",
        [
            "iptables-nft -t nat -A OUTPUT -j ACCEPT",
            "iptables-nft -t nat -I ISTIO-OUTPUT -j LOG",
            "ip6tables-nft -t nat -D ISTIO-INBOUND 1",
            "iptables-nft -t nat -R ISTIO-REDIRECT 1 -p tcp -j REDIRECT --to-ports 15009",
            "iptables-nft -t nat -F ISTIO-OUTPUT",
            "nft chain ip nat OUTPUT '{ policy drop; }'",
            "iptables-nft -t nat -N ISTIO-DIVERT",
            "iptables-nft -t mangle -A OUTPUT -j MARK --set-mark 1",
            "nft delete table ip6 nat",
            "nft insert rule ip nat OUTPUT counter accept",
            'nft insert rule ip nat OUTPUT counter accept comment "x"',
        ],
    )
    def test_every_other_change_needs_a_closer_look(self, captured: Namespace, command: str) -> None:
        captured.run(["sh", "-c", command])
        assert not captured.call(IptablesNetlinkDriver().has_exactly, SIDECAR)

    @pytest.mark.parametrize("other", [SIDECAR.replace(families=(IPV4,)), TRANSPARENT_DNS, NOTHING])
    def test_another_rule_set_is_another(self, captured: Namespace, other: Ruleset) -> None:
        assert not captured.call(IptablesNetlinkDriver().has_exactly, other)


class TestAllOrNothing:
    def test_no_family_changes_if_one_cannot(self, netns: NamespaceFactory) -> None:
        namespace, driver = netns(), IptablesNetlinkDriver()
        impossible = Rule(Return(), (OwnerUid((only(1337),)),), IPV6)  # what comes in has no owner: xt_owner refuses
        chains = (Chain(PREROUTING, (impossible,)), *SIDECAR.tables[0].chains[1:])
        with pytest.raises(KernelError, match="add a rule to chain PREROUTING of table ip6 nat: Invalid argument"):
            namespace.call(driver.write, SIDECAR.replace(tables=(Table(NAT, chains),)), NOTHING, None)
        assert kernel_state(namespace) == []

    def test_a_change_in_between_is_seen(self, netns: NamespaceFactory) -> None:
        namespace, driver = netns(), IptablesNetlinkDriver()
        live = namespace.call(driver.read)
        namespace.run(["iptables-nft", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "ACCEPT"])
        namespace.call(driver.write, SIDECAR, live, None)
        rules = namespace.run(["iptables-nft", "-t", "nat", "-S", "OUTPUT"]).stdout.splitlines()[1:]
        assert rules == ["-A OUTPUT -p tcp -j ISTIO-OUTPUT", "-A OUTPUT -p tcp -j ACCEPT"]

    def test_a_ruleset_that_keeps_changing(self, netns: NamespaceFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        namespace, driver = netns(), IptablesNetlinkDriver()

        def changed(*_: object) -> None:
            raise RulesetChangedError("write")

        monkeypatch.setattr(nfnetlink, "commit", changed)
        with pytest.raises(KernelError, match=r"attempts: another process keeps modifying it(?s:.*)`nft monitor`"):
            namespace.call(driver.write, SIDECAR, NOTHING, None)

    def test_a_foreign_chain_in_the_way_is_named(self, netns: NamespaceFactory) -> None:
        namespace, driver = netns(), IptablesNetlinkDriver()
        namespace.run(
            ["nft", "-f", "-"],
            stdin="table ip nat {\nchain PREROUTING {\ntype nat hook prerouting priority -5;\n}\n"
            "chain OUTPUT {\nip daddr 10.0.0.0/8 counter jump ISTIO_OUTPUT\n}\nchain ISTIO_OUTPUT { }\n}\n",
        )
        with pytest.raises(CaptureError, match="nft delete chain ip nat PREROUTING") as raised:
            write(namespace, driver, SIDECAR)
        assert "PREROUTING(nat prerouting -5)" in str(raised.value)
        clean(namespace, driver)
        assert "ISTIO" not in nft_listing(namespace)

    def test_ten_thousand_networks(self, netns: NamespaceFactory) -> None:
        namespace, driver = netns(), IptablesNetlinkDriver()
        networks = tuple(Network(IPV4, (10 << 24) + (number << 9), 24) for number in range(10_000))
        rule = Rule(Return(), (Destination(networks),), IPV4)
        ruleset = Ruleset(FAMILIES, (Table(NAT, (Chain("ISTIO_OUTPUT", (rule,)), Chain(OUTPUT, (TO_OUTPUT,)))),))
        namespace.call(driver.write, ruleset, NOTHING, None)
        listed = namespace.run(["iptables-nft", "-t", "nat", "-S", "ISTIO_OUTPUT"]).stdout.splitlines()
        assert listed[1:] == [f"-A ISTIO_OUTPUT -d {network} -j RETURN" for network in networks]


class TestWhatTheKernelLacks:
    """This kernel has everything, so the request is for revisions that no kernel has."""

    @pytest.mark.parametrize(("kind", "name"), [("match", "owner"), ("target", "REDIRECT")])
    def test_an_extension_is_named_with_its_module(
        self, netns: NamespaceFactory, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
    ) -> None:
        monkeypatch.setitem(xt_layouts.WRITTEN, name, (77, xt_layouts.WRITTEN[name][1]))
        with pytest.raises(UnsupportedError, match=rf"lacks .* {kind} {name} \(revision 77\)") as raised:
            netns().call(IptablesNetlinkDriver().write, SIDECAR, NOTHING, None)
        assert f"`modprobe -a xt_{name}`" in raised.value.remedy

    def test_a_type_of_chain_is_named_with_its_module(
        self, netns: NamespaceFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(HOOKS, (NAT, PREROUTING), Hook("gnat", "prerouting", -100))
        with pytest.raises(UnsupportedError, match="cannot add chain PREROUTING to table ip nat") as raised:
            netns().call(IptablesNetlinkDriver().write, SIDECAR, NOTHING, None)
        assert "modprobe nft_chain_nat" in raised.value.remedy

    def test_extensions_are_queried_one_by_one(self, netns: NamespaceFactory) -> None:
        with netns().entered(), open_nfnetlink() as netfilter:
            assert has_extension(netfilter, 2, "match", "owner", 1)
            assert has_extension(netfilter, 10, "target", "REDIRECT", 0)
            assert not has_extension(netfilter, 2, "match", "unknown", 0)

    def test_too_much_in_one_rule_is_an_error(self, netns: NamespaceFactory) -> None:
        excluded = tuple(only(2 * number) for number in range(200))
        rule = Rule(Return(), (OwnerUid(excluded, negated=True),))
        ruleset = Ruleset(FAMILIES, (Table(NAT, (Chain(OUTPUT, (rule,)),)),))
        with pytest.raises(UnsupportedError, match="one rule excludes more networks, ports or ids"):
            netns().call(IptablesNetlinkDriver().write, ruleset, NOTHING, None)

    def test_without_privilege_nothing_can_be_written(self, netns: NamespaceFactory) -> None:
        program = """
            import sys; sys.path[:0] = [sys.argv[1]]
            from capture.backends.iptables.netlink import IptablesNetlinkDriver
            from capture.errors import CaptureError
            from capture.model.addresses import FAMILIES
            from capture.model.ruleset import Chain, Return, Rule, Ruleset, Table
            chains = (Chain("OUTPUT", (Rule(Return()),)),)
            try:
                IptablesNetlinkDriver().write(Ruleset(FAMILIES, (Table("nat", chains),)), Ruleset(FAMILIES, ()), None)
            except CaptureError as error:
                print(type(error).__name__, error.message)
            """
        command = [sys.executable, "-I", "-c", textwrap.dedent(program), str(CHECKOUT)]
        printed = netns().run(command, uid=1000, reads_everything=True).stdout
        assert printed.startswith("PrivilegeError not permitted to ")


def test_no_program_is_needed(netns: NamespaceFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace, driver = netns(), IptablesNetlinkDriver()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("os.posix_spawn", None)
    with namespace.entered():
        driver.write(SIDECAR, driver.read(), None)
        assert not differences(SIDECAR, driver.read())
        driver.clean(driver.read(), None)

"""Random situations from tiny pools, so that packets meet rules that belong together: of a random seed.

Wide pools hardly ever make a packet that is redirected meet a rule for what is redirected. Here there are two
addresses, three ports and two marks, so that packets come in again over lo, meet a second nat chain, and get marks
back that they left on their connections.
"""

from collections.abc import Hashable, Iterator, Sequence
from random import Random

from capture.analysis.base_chains import PRIORITIES, BaseChain, PodNetwork, Situation
from capture.analysis.diagram import Diagrams
from capture.analysis.rerouting import UNCHANGED, MarkRoute
from capture.analysis.space import ABSENT, PACKET_PROTOCOLS, PacketSpace, gathered_bits
from capture.model.addresses import IPV4, Family, Network, parse_address
from capture.model.foreign import InterfaceIndex, LocalAddress, Protocols, TcpFlags, TranslatedConnection
from capture.model.packet import Packet
from capture.model.routing import PolicyRoute
from capture.model.ruleset import (
    CONNECTION_STATES,
    INPUT,
    MANGLE,
    NAT,
    OUTPUT,
    POSTROUTING,
    PREROUTING,
    RAW,
    Accept,
    Chain,
    ConnectionMark,
    ConnectionState,
    Destination,
    DestinationPort,
    Drop,
    InInterface,
    Jump,
    Log,
    Mark,
    Match,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    Redirect,
    RestoreMark,
    Return,
    Rule,
    Ruleset,
    SaveMark,
    SetMark,
    SetZone,
    Source,
    SourcePort,
    Table,
    TableName,
    TransparentProxy,
    UnknownMatch,
    Verdict,
    only,
)
from support.rules.foreign import foreign_match, foreign_verdict

ADDRESSES: dict[Family, tuple[Network, ...]] = {
    "ipv4": tuple(map(parse_address, ("127.0.0.1", "10.0.0.2", "203.0.113.7", "203.0.113.8"))),
    "ipv6": tuple(map(parse_address, ("::1", "fd00::2", "2001:db8::7", "2001:db8::8"))),
}
OWN = PodNetwork((*ADDRESSES["ipv4"][1:2], *ADDRESSES["ipv6"][1:2]), "eth0", ("net1",))
OWN = OWN.replace(local=OWN.own, names=((1, "lo"), (2, "eth0"), (3, "net1")))
PORTS = (80, 443, 15001)
IDS = (1000, 1337)
MARKS = (1, 1337)
MASKS = (0xFFFF_FFFF, 0x1, 0x539, 0xFF, 0xFFFF_FFFE, 0x538)
INTERFACES = ("eth0", "net1", "lo", "eth+", "+")
UNDERSTOOD = (
    (foreign_match("-p icmp"), UnknownMatch("meta l4proto { tcp, 132 }", Protocols(("tcp", "132")))),
    (foreign_match("-m addrtype --dst-type LOCAL"), UnknownMatch("iif 2", InterfaceIndex(InInterface, 2))),
    (
        foreign_match("-p icmp"),
        foreign_match("-m iprange ! --src-range 10.0.0.2-127.0.0.1 --dst-range 203.0.113.0-203.0.113.7"),
    ),
    (
        UnknownMatch("fib saddr type != local", LocalAddress(Source, True)),
        UnknownMatch("oif != 3", InterfaceIndex(OutInterface, 3, True)),
    ),
    (
        foreign_match("-m conntrack --ctstate INVALID,DNAT"),
        UnknownMatch("ct status & dnat == 0", TranslatedConnection(negated=True)),
    ),
    (
        foreign_match("-m tcp --tcp-flags FIN,SYN,RST,ACK SYN"),
        UnknownMatch("tcp flags & 0x04 == 0x04", TcpFlags(4, 4)),
    ),
    (foreign_match("-m conntrack --ctdir REPLY"), foreign_match("-m conntrack ! --ctstate ESTABLISHED,DNAT")),
)
"""Two for each situation in turn."""
CHAIN_NAMES = ("ISTIO_REDIRECT", "ISTIO_IN_REDIRECT", "ISTIO_OUTPUT", "ISTIO_INBOUND")
LAST = "other"


def _zoned(verdict: Verdict, matches: tuple[Match, ...]) -> Rule:
    """Return a rule that logs as one that sets a zone, which those of UDP alone may."""
    others = tuple(each for each in matches if not isinstance(each, Protocol))
    return Rule(SetZone(2), (Protocol("udp"), *others)) if verdict == Log("x") else Rule(verdict, matches)


class Pools:
    """The draws of one seed."""

    def __init__(self, seed: int, *, unknown: bool = False) -> None:
        self.random = Random(seed)  # noqa: S311  # no secret
        self.random_for_routes = Random(-seed - 1)  # noqa: S311  # the same
        self.family: Family = self.random.choice(("ipv4", "ipv6"))
        self.unknown = unknown
        self.is_understood = UNDERSTOOD[seed % len(UNDERSTOOD)]

    def situation(self, *, chains: int = 4) -> Situation:
        """Return rules in our tables, and foreign chains before, between and behind them."""
        random = self.random
        tables = tuple(self.table(name) for name in (RAW, MANGLE, NAT) if name == NAT or random.random() < 0.7)
        marks = [PolicyRoute(self.family, 1337, 133)] if random.random() < 0.5 else []
        elsewhere = sorted(
            (self.foreign(number) for number in range(random.randrange(chains + 1))), key=lambda b: b.priority
        )
        ruleset = Ruleset((self.family,), tables, policy_routes=tuple(marks))
        network = OWN.replace(mark_routes=tuple(self.mark_routes())) if self.random_for_routes.random() < 0.7 else OWN
        return Situation(ruleset, tuple(elsewhere), is_native=random.random() < 0.5, network=network)

    def mark_routes(self) -> Iterator[MarkRoute]:
        """Yield a few policy rules for marks, which lead addresses to interfaces or refuse them."""
        random = self.random_for_routes
        for number in range(random.randint(1, 3)):
            mark, mask = random.choice(MARKS), random.choice((0x1, 0x539, 0x538, 0xFFFF_FFFF))
            _, own, one, other = (each.first for each in ADDRESSES[self.family])
            leads = random.sample(("eth0", "net1", "lo", "net1", "lo", None, None, UNCHANGED), 2)
            ways = (own + 1, one, leads[0]), (other, other, leads[1])
            source = random.choice((None, None, *ADDRESSES[self.family]))
            yield MarkRoute(self.family, mark & mask, mask, random.random() < 0.5, f"{number}:", ways, source=source)

    def table(self, name: TableName) -> Table:
        """Return a table whose chains jump to those behind them."""
        targets = (*CHAIN_NAMES[: self.random.randint(1, 4)], LAST)
        chains = [
            Chain(hook, self.rules(name, hook, targets), self.random.choice(("ACCEPT",) * 9 + ("DROP",)))
            for hook in (PREROUTING, OUTPUT, *((INPUT, POSTROUTING) if name == MANGLE else ()))
        ]
        chains += [Chain(each, self.rules(name, "", targets[place + 1 :])) for place, each in enumerate(targets)]
        return Table(name, tuple(chains))

    def foreign(self, number: int) -> BaseChain:
        """Return a base chain of another table."""
        random = self.random
        is_nat = random.random() < 0.4
        kind: TableName = NAT if is_nat else MANGLE
        hook = random.choice((PREROUTING, OUTPUT) if is_nat else (PREROUTING, OUTPUT, INPUT, POSTROUTING))
        priority = random.choice((-199, -160, -110, -100, -90, 0) if is_nat else (-310, -300, -200, -150, -90, 0, 0, 0))
        is_late = not is_nat and (priority > PRIORITIES[NAT] or hook in (INPUT, POSTROUTING))
        policy = random.choice(("ACCEPT",) * 9 + ("DROP",))
        own = Chain(f"base{number}", self.rules(kind, hook, (LAST,), is_late=is_late), policy)
        contents = Table(kind, (own, Chain(LAST, self.rules(kind, "", (), is_late=is_late))))
        is_older, is_native = random.random() < 0.5, random.random() < 0.5
        families: tuple[Family, ...] = (self.family,)
        name, is_route = f"ip table{number}", not is_nat and self.random_for_routes.random() < 0.5
        return BaseChain(
            name, families, hook, priority, is_nat, contents, is_older, is_native=is_native, is_route=is_route
        )

    def rules(
        self, table: TableName, hook: str, targets: tuple[str, ...], *, is_late: bool = False
    ) -> tuple[Rule, ...]:
        """Return a few rules, now and then so many that they are not folded one by one."""
        count = self.random.choice((0, 1, 2, 3, 4, 12))
        drawn = (
            (self.verdict(table, targets, is_late=is_late), self.matches(hook, is_late=is_late)) for _ in range(count)
        )
        return tuple(_zoned(*each) if table == RAW or hook == "" else Rule(*each) for each in drawn)

    def matches(self, hook: str, *, is_late: bool = False) -> tuple[Match, ...]:
        """Return up to two questions."""
        random, family = self.random, self.family
        negated = random.random() < 0.3
        possible: list[Match] = [
            Protocol(random.choice(("tcp", "tcp", "udp"))),
            Destination(tuple(random.sample(ADDRESSES[family], random.randint(1, 2))), negated),
            Source((random.choice(ADDRESSES[family]),), negated),
            DestinationPort(tuple(map(only, random.sample(PORTS, random.randint(1, 2)))), negated),
            SourcePort((only(5),), negated),
            Mark(random.choice(MARKS), random.choice(MASKS), negated),
            ConnectionMark(random.choice(MARKS), random.choice(MASKS), negated),
            ConnectionState(tuple(random.sample(CONNECTION_STATES, random.randint(1, 3))), negated),
            OwnerUid((only(random.choice(IDS)),), negated),
            OwnerGid((only(random.choice(IDS)),), negated),
        ]
        possible += [match for match in possible if isinstance(match, Destination | DestinationPort)] * 2
        if hook not in (OUTPUT, POSTROUTING):
            possible.append(InInterface(random.choice(INTERFACES), negated))
        if hook not in (PREROUTING, INPUT):
            possible.append(OutInterface(random.choice(INTERFACES), negated))
        if is_late:
            possible += [match for match in possible if isinstance(match, OutInterface | ConnectionState)] * 6
        if random.random() < 0.3:
            possible += self.is_understood
        if self.unknown and random.random() < 0.3:
            possible = [foreign_match(f"-m statistic {random.randrange(2)}")]
        return tuple(random.sample(possible, min(random.randint(0, 2), len(possible))))

    def verdict(self, table: TableName, targets: tuple[str, ...], *, is_late: bool) -> Verdict:
        """Return a verdict, in nat mostly one that maps."""
        random = self.random
        possible: list[Verdict] = [Return(), Accept(), Log("x"), SetMark(1, 0x1)]
        possible += [SetMark(random.choice(MARKS), 0xFFFF_FFFF), SetMark(0, 0x539), SaveMark(), RestoreMark()]
        possible += [Jump(target) for target in targets for _ in range(2)]
        possible += [foreign_verdict(f"-g {target}") for target in targets[-1:]]
        if table == NAT:
            possible += [Redirect(random.choice(PORTS)) for _ in range(4)]
            address = str(random.choice(ADDRESSES[self.family])).partition("/")[0]
            port = random.choice(("", ":443"))
            to = f"[{address}]" if ":" in address else address
            possible += [
                foreign_verdict(f"DNAT --to-destination {to}{port}"),
                foreign_verdict(f"DNAT --to-destination {f'{to}{port}' if ':' in address else ':80'}"),
            ]
        else:
            possible += [TransparentProxy(15006, random.choice(MARKS)), foreign_verdict("CT --notrack")]
        if random.random() < (0.5 if is_late else 0.05):
            return random.choice((Drop(), foreign_verdict("REJECT")))
        if self.unknown and random.random() < 0.2:
            return foreign_verdict("NFQUEUE --queue-num 1")
        return random.choice(possible)

    def packets(self, count: int) -> Iterator[Packet]:
        """Yield packets whose every number occurs in rules, or is next to one that does."""
        random, family = self.random, self.family
        bits = 32 if family == IPV4 else 128
        for _ in range(count):
            interface = random.choice(("eth0", "net1", "lo", "eth7", "zz"))
            is_inbound = random.random() < 0.4
            has_owner = not is_inbound and random.random() < 0.9
            source = random.choice((*ADDRESSES[family], Network(family, 9, bits), None))
            yield Packet(
                random.choice(("tcp", "tcp", "udp")),
                random.choice((*ADDRESSES[family], Network(family, 9, bits))),
                random.choice((*PORTS, 81)),
                source=source,
                source_port=random.choice((5, 6, None)),
                uid=random.choice((*IDS, 1001)) if has_owner else None,
                gid=random.choice((*IDS, 1001)) if has_owner else None,
                in_interface=interface if is_inbound else None,
                out_interface=None if is_inbound else interface,
                mark=random.choice((0, 0, 1, 1337, 0x538)),
                connection_mark=random.choice((0, 0, 1, 1337)),
                state=random.choice(("NEW", "NEW", *CONNECTION_STATES)),
            )


def numbers_of(space: PacketSpace, packet: Packet) -> list[int]:
    """Return the number of each field of a packet, the inverse of ``space.packet``; what is unknown is all false."""
    numbers = [
        PACKET_PROTOCOLS.index(packet.protocol),
        space.number_of(packet.in_interface),
        space.number_of(packet.out_interface),
        CONNECTION_STATES.index(packet.state),
        packet.port,
        packet.destination.first,
        *(ABSENT if each is None else each for each in (packet.source_port, packet.uid, packet.gid)),
        packet.source.first if packet.source else ABSENT,
    ]
    for bits in space.groups:
        numbers += [
            gathered_bits(packet.mark, bits),
            gathered_bits(packet.mark, bits),
            gathered_bits(packet.connection_mark, bits),
        ]
    return numbers + [0] * (len(space.domains) - space.first_unknown_level)


def value_at(diagrams: Diagrams, node: int, numbers: Sequence[int]) -> Hashable:
    """Return the value of a function for one assignment: a number for each level."""
    while not diagrams.is_leaf(node):
        node = diagrams.child(node, numbers[diagrams.level(node)])
    return diagrams.value(node)

"""What holds for the rules of every configuration."""

from collections.abc import Callable, Iterator

from hypothesis import given
from hypothesis import strategies as st

from capture.analysis.canonical import canonical
from capture.analysis.compare import differences
from capture.backends import detect, load_driver
from capture.backends.request import DRIVERS, BackendRequest
from capture.model.addresses import FAMILIES, Family, Network, parse_network
from capture.model.chain_names import NAMES_BY_SPELLING
from capture.model.packet import Packet
from capture.model.ruleset import (
    BUILT_IN_CHAINS,
    MANGLE,
    NAT,
    OUTPUT,
    PREROUTING,
    TABLES,
    Chain,
    Destination,
    DestinationPort,
    InInterface,
    Jump,
    Log,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    Return,
    Rule,
    Ruleset,
    Source,
    SourcePort,
    Table,
    TransparentProxy,
    only,
)
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from support.generators.configurations import configs
from support.rules.traced import trace

TCP = Protocol("tcp")


def all_rules(ruleset: Ruleset) -> Iterator[tuple[Table, Chain, Rule]]:
    for table in ruleset.tables:
        for chain in table.chains:
            for rule in chain.rules:
                yield table, chain, rule


def with_rules(ruleset: Ruleset, change: Callable[[Table, Chain, Rule], Rule | None]) -> Ruleset:
    """Return the rule set with each rule changed, or left out where there is None."""
    tables = []
    for table in ruleset.tables:
        chains = []
        for chain in table.chains:
            changed = [change(table, chain, rule) for rule in chain.rules]
            chains.append(chain.replace(rules=tuple(rule for rule in changed if rule is not None)))
        tables.append(table.replace(chains=tuple(chains)))
    return ruleset.replace(tables=tuple(tables))


@given(configs)
def test_tables_and_chains_are_in_their_order(config: CaptureConfig) -> None:
    ruleset = build_ruleset(config)
    assert [table.name for table in ruleset.tables] == [
        name for name in TABLES if any(table.name == name for table in ruleset.tables)
    ]
    for table in ruleset.tables:
        names = [chain.name for chain in table.chains]
        assert len(set(names)) == len(names)
        built_in = [name for name in names if name in BUILT_IN_CHAINS[table.name]]
        assert names[: len(built_in)] == built_in == [n for n in BUILT_IN_CHAINS[table.name] if n in built_in]
        assert names[len(built_in) :] == sorted(names[len(built_in) :], key=lambda name: name.replace("-", "_"))
        assert all(chain.rules for chain in table.chains)


@given(configs)
def test_every_jump_leads_to_one_of_our_chains_and_none_leads_back(config: CaptureConfig) -> None:
    names = NAMES_BY_SPELLING[config.chain_names]
    spelled = {getattr(names, field) for field in names.__match_args__}
    for table in build_ruleset(config).tables:
        assert {chain.name for chain in table.chains} - set(BUILT_IN_CHAINS[table.name]) <= spelled
        for chain in table.chains:
            require_no_way_back(table, chain.name, ())


def require_no_way_back(table: Table, name: str, way: tuple[str, ...]) -> None:
    assert name not in way
    chain = table.chain(name)
    assert chain is not None, f"{name} is jumped to from {way[-1]} and not there"
    for target in {rule.verdict.chain for rule in chain.rules if isinstance(rule.verdict, Jump)}:
        require_no_way_back(table, target, (*way, name))


@given(configs)
def test_rules_test_what_a_kernel_knows_there(config: CaptureConfig) -> None:
    ruleset = build_ruleset(config)
    for table, chain, rule in all_rules(ruleset):
        kinds = {type(match) for match in rule.matches}
        assert len(kinds) == len(rule.matches), "no match twice"
        if kinds & {SourcePort, DestinationPort}:
            assert Protocol in kinds
        for match in rule.matches:
            if isinstance(match, Source | Destination):
                assert {network.family for network in match.networks} == {rule.family}
        sides = sides_of(table, chain.name)
        if kinds & {InInterface} or isinstance(rule.verdict, TransparentProxy):
            assert OUTPUT not in sides
        if kinds & {OutInterface, OwnerUid, OwnerGid}:
            assert PREROUTING not in sides


def sides_of(table: Table, chain: str) -> set[str]:
    """Return the built-in chains from which a chain can be reached."""
    if chain in BUILT_IN_CHAINS[table.name]:
        return {chain}
    callers = [c.name for c in table.chains for rule in c.rules if rule.verdict == Jump(chain)]
    return {side for caller in dict.fromkeys(callers) for side in sides_of(table, caller)}


@given(configs)
def test_classic_differs_from_current_in_exactly_three_things(config: CaptureConfig) -> None:
    names = NAMES_BY_SPELLING[config.chain_names]
    classic = build_ruleset(config.replace(profile="1.8", rule_logs=False))
    current = build_ruleset(config.replace(profile="1.30", rule_logs=False))

    def as_current(table: Table, chain: Chain, rule: Rule) -> Rule | None:
        if table.name == NAT and chain.name == OUTPUT and rule.verdict == Jump(names.output):
            return None if Protocol("udp") in rule.matches else rule.replace(matches=())
        if rule == Rule(Return(), (TCP, DestinationPort((only(22),)))) and rule.why.startswith("ssh"):
            return None
        if rule.verdict == Jump(names.in_redirect) and chain.name == names.output:
            tunnel = only(config.inbound_tunnel_port)
            before = next((m.ports for m in rule.matches if isinstance(m, DestinationPort)), ())
            others = tuple(m for m in rule.matches if not isinstance(m, Protocol | DestinationPort))
            with_option = DestinationPort((*before, tunnel), negated=True)
            return rule.replace(matches=(*others[:-1], TCP, with_option, others[-1]))
        return rule

    assert with_rules(classic, as_current) == current


@given(configs)
def test_spelling_changes_names_and_nothing_else(config: CaptureConfig) -> None:
    dash = build_ruleset(config.replace(chain_names="dash"))
    underscore = build_ruleset(config.replace(chain_names="underscore"))
    assert repr(dash).replace("-", "_") == repr(underscore).replace("-", "_")
    assert all("_" not in chain.name for table in dash.tables for chain in table.chains)
    assert all("-" not in chain.name for table in underscore.tables for chain in table.chains)


@given(configs, st.sampled_from(FAMILIES))
def test_a_family_has_the_same_rules_alone_and_with_the_other(config: CaptureConfig, family: Family) -> None:
    both = build_ruleset(config.replace(families=FAMILIES))
    alone = build_ruleset(config.replace(families=(family,)))
    assert canonical(both, family) == canonical(alone, family)
    assert [route for route in both.policy_routes if route.family == family] == list(alone.policy_routes)


@given(configs, st.sampled_from([BackendRequest(backend, name) for backend in DRIVERS for name in DRIVERS[backend]]))
def test_without_a_family_there_is_nothing_to_write(config: CaptureConfig, request: BackendRequest) -> None:
    driver = load_driver(detect.choose_without_kernel(request))

    assert driver.render(build_ruleset(config).replace(families=())) == []
    assert driver.render(build_ruleset(config)) != []


@given(configs)
def test_logs_come_first_in_each_of_our_chains_and_change_nothing_else(config: CaptureConfig) -> None:
    plain = build_ruleset(config.replace(rule_logs=False))
    logged = build_ruleset(config.replace(rule_logs=True))
    for table in logged.tables:
        for chain in table.chains:
            log = isinstance(chain.rules[0].verdict, Log)
            assert log == (chain.name not in BUILT_IN_CHAINS[table.name])
    assert with_rules(logged, lambda _table, _chain, rule: None if isinstance(rule.verdict, Log) else rule) == plain


@given(configs)
def test_only_requested_features_need_more_than_nat(config: CaptureConfig) -> None:
    ruleset = build_ruleset(config)
    assert (ruleset.table(MANGLE) is not None) == (config.mode == "TPROXY" or config.drops_invalid)
    assert bool(ruleset.policy_routes) == (config.mode == "TPROXY" and bool(config.inbound_ports))
    assert [address.network for address in ruleset.loopback_addresses] == (
        [parse_network("::6")] if "ipv6" in config.families else []
    )
    assert ruleset.has_comments == config.rule_comments


@given(configs, st.sampled_from(["tcp", "udp"]), st.integers(1, 65535), st.data())
def test_the_proxy_gets_out_in_every_capture(
    config: CaptureConfig, protocol: str, port: int, data: st.DataObject
) -> None:
    """Unless foreign rules make a loop: none of our own takes what a proxy id sends to other hosts."""
    family = data.draw(st.sampled_from(config.families))
    elsewhere = {"ipv4": Network("ipv4", 0x08080808, 32), "ipv6": Network("ipv6", 0x2001 << 112 | 8, 128)}[family]
    uid = data.draw(st.sampled_from(config.proxy_uids)).first
    packet = Packet("tcp" if protocol == "tcp" else "udp", elsewhere, port, uid=uid, gid=7, out_interface="eth0")
    assert trace(build_ruleset(config), packet).outcome == "direct"


@given(configs)
def test_building_twice_gives_the_same(config: CaptureConfig) -> None:
    one, other = build_ruleset(config), build_ruleset(config)
    assert one == other
    assert differences(one, other) == []

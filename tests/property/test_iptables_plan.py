"""Laws of plans, on tables that keep what edits do to them, with rules of others in between."""

from hypothesis import given
from hypothesis import strategies as st

from capture.analysis.canonical import canonical
from capture.analysis.compare import differences
from capture.backends.iptables.parse import parse_save
from capture.backends.iptables.plan import plan
from capture.model.addresses import FAMILIES, IPV4, IPV6
from capture.model.chain_names import is_own_chain
from capture.model.ruleset import BUILT_IN_CHAINS, MANGLE, NAT, OUTPUT, PREROUTING, RAW, TABLES, Chain, Ruleset, Table
from support.generators.rules import rulesets
from support.rules.iptables_simulation import Tables

FOREIGN_RULES = (
    "-j DOCKER",
    "-i eth7 -j RETURN",
    "-p icmp -j ACCEPT",
    "-p icmp -j LOG",
    "-m statistic --mode random --probability 0.50000000000 -j ACCEPT",
    '-m string --string "-j ISTIO_OUTPUT" --algo bm -j DROP',
    "-p tcp -j DNAT --to-destination 10.0.0.1:80",
    "-m limit --limit 5/sec -j MARK --set-xmark 0x1/0x1",
    "-p tcp -m tcp --dport 9 -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
    "-m addrtype --dst-type LOCAL",
)


@st.composite
def foreign(draw: st.DrawFn) -> tuple[Ruleset, ...]:
    """Foreign rules, in tables and chains that both families have."""
    rules = st.lists(st.sampled_from(FOREIGN_RULES), max_size=6)
    read = []
    for family in FAMILIES:
        text = ""
        for table in (RAW, MANGLE, NAT):
            text += f"*{table}\n" + "".join(f":{chain} ACCEPT [0:0]\n" for chain in BUILT_IN_CHAINS[table])
            text += ":DOCKER - [0:0]\n"
            for chain in (PREROUTING, OUTPUT, "DOCKER"):
                inside = [rule for rule in draw(rules) if chain != "DOCKER" or "DOCKER" not in rule]
                text += "".join(f"-A {chain} {rule}\n" for rule in inside)
            text += "COMMIT\n"
        read.append(parse_save(text, family))
    return tuple(read)


def without_our_chains(ruleset: Ruleset) -> Ruleset:
    """Return a rule set without our chains; what is left must be foreign."""
    tables = []
    for table in ruleset.tables:
        chains = tuple(chain for chain in table.chains if not is_own_chain(chain.name))
        tables.append(Table(table.name, chains))
    return ruleset.replace(tables=tuple(tables))


def foreign_only(tables: Tables) -> list[object]:
    return [canonical(tables.read(), family) for family in FAMILIES]


def in_both_families(ruleset: Ruleset) -> Ruleset:
    """Return the rule set with our chains only: the capture knows those without any record."""
    kept = [
        Table(table.name, tuple(chain if is_own_chain(chain.name) else Chain(chain.name) for chain in table.chains))
        for table in ruleset.tables
    ]
    return ruleset.replace(tables=tuple(kept))


@given(foreign(), rulesets())
def test_a_plan_leads_to_the_desired_rules_and_a_second_plan_is_empty(
    others: tuple[Ruleset, ...], desired: Ruleset
) -> None:
    tables = Tables(*others)
    tables.execute(plan(tables.read(), desired))

    assert not differences(desired, tables.read())
    assert plan(tables.read(), desired.replace(has_comments=False), desired) == ()


@given(foreign(), rulesets(), rulesets())
def test_replacing_and_cleaning_leave_foreign_rules_alone(
    others: tuple[Ruleset, ...], first: Ruleset, second: Ruleset
) -> None:
    tables = Tables(*others)
    before = foreign_only(tables)

    tables.execute(plan(tables.read(), first))
    tables.execute(plan(tables.read(), second, first))
    assert not differences(second, tables.read())

    tables.execute(plan(tables.read(), None, second))
    assert foreign_only(tables) == before
    assert not [chain for table in tables.read().tables for chain in table.chains if is_own_chain(chain.name)]


@given(foreign(), rulesets())
def test_without_a_record_chains_and_jumps_are_found_all_the_same(
    others: tuple[Ruleset, ...], desired: Ruleset
) -> None:
    desired = in_both_families(desired)
    tables = Tables(*others)
    before = foreign_only(tables)

    tables.execute(plan(tables.read(), desired))
    tables.execute(plan(tables.read(), None))

    assert foreign_only(tables) == before


@given(foreign())
def test_without_a_capture_there_is_nothing_to_clean(others: tuple[Ruleset, ...]) -> None:
    assert plan(Tables(*others).read(), None) == ()


@given(rulesets(families=(IPV4, IPV6), within=TABLES))
def test_into_an_empty_namespace_all_families_are_written_alike(desired: Ruleset) -> None:
    mirrored = desired.replace(
        tables=tuple(
            table.replace(
                chains=tuple(
                    chain.replace(rules=tuple(rule for rule in chain.rules if rule.family is None))
                    for chain in table.chains
                )
            )
            for table in desired.tables
        )
    )
    edits = plan(Ruleset(FAMILIES, ()), mirrored)
    by_family = {family: [edit for edit in edits if edit.family == family] for family in FAMILIES}

    assert [edit.table for edit in by_family[IPV4]] == [edit.table for edit in by_family[IPV6]]
    for one, other in zip(by_family[IPV4], by_family[IPV6], strict=True):
        assert list(one.rewritten_chains) == list(other.rewritten_chains)
        assert [(chain, place) for chain, place, _ in one.insertions] == [
            (chain, place) for chain, place, _ in other.insertions
        ]

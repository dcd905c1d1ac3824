"""Foreign rules in a namespace: Docker's, a firewall's, look-alikes of our own."""

import random

from capture.model.addresses import FAMILIES, IPV4, Family
from capture.model.ruleset import BUILT_IN_CHAINS, MANGLE, NAT, RAW, TableName
from pytest_netns import Namespace
from support.rules.iptables_drivers import DriverCase

EVERYWHERE = (
    "-p tcp -m tcp --dport 9999 -j RETURN",
    "-m statistic --mode random --probability 0.50000000000 -j RETURN",
    '-p tcp -m string --string "GET / -j ISTIO_OUTPUT" --algo bm --to 65535 -j ACCEPT',
    '-m comment --comment "-j ISTIO_REDIRECT" -j RETURN',
    "-m mark --mark 0x1/0xff -j ACCEPT",
    '-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m limit --limit 5/min -j LOG --log-prefix "syn: "',
    "-m length --length 0:100",
    "-m addrtype --dst-type LOCAL -j LOCAL-TRAFFIC",
    "-j LOCAL-TRAFFIC",
    "-g LOCAL-TRAFFIC",
    '-m u32 --u32 "0x0&0xf=0x5" -j RETURN',
)
INBOUND = ("-i eth7 -j RETURN", "-i docker+ -j LOCAL-TRAFFIC", "! -i eth8 -j ACCEPT")
OUTBOUND = (
    "-o eth7 -j RETURN",
    "-o docker+ -j LOCAL-TRAFFIC",
    "-m owner --uid-owner 0 -j RETURN",
    "-p udp -m udp --dport 53 -m owner --uid-owner 1000-2000 -j RETURN",
    "-m owner --socket-exists -j ACCEPT",
)
OF_TABLE: dict[TableName, tuple[str, ...]] = {
    RAW: ("-p udp -m udp --dport 53 -j CT --notrack", "-p udp -m udp --sport 53 -j CT --zone 7"),
    MANGLE: (
        "-m conntrack --ctstate INVALID -j DROP",
        "-p tcp -m mark --mark 0x7 -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
        "-p tcp -m connmark --mark 0x7 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
        "-j MARK --set-xmark 0x10/0x10",
        "-j MARK --set-xmark 0x10/0x0",
    ),
    NAT: ("-p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080", "-p udp -m udp --dport 53 -j REDIRECT --to-ports 53"),
}


def rules_for(table: TableName, chain: str, family: Family) -> list[str]:
    """Return rules that the kernel takes in a built-in chain."""
    rules = [*EVERYWHERE, *OF_TABLE[table]]
    if chain == "PREROUTING":
        rules += INBOUND
    elif chain == "OUTPUT":
        rules += OUTBOUND
    elif table == NAT:
        return [f"-s {'172.17.0.0/16' if family == IPV4 else 'fd17::/64'} ! -o docker0 -j MASQUERADE"]
    else:
        return [*EVERYWHERE]
    if table == NAT:
        to = "172.17.0.2:80" if family == IPV4 else "[fd17::2]:80"
        rules.append(f"-p tcp -m tcp --dport 8080 -j DNAT --to-destination {to}")
    return rules


def write_foreign_rules(case: DriverCase, namespace: Namespace, count: int, seed: int) -> None:
    """Write about as many foreign rules, spread over tables, chains and both families."""
    chosen = random.Random(seed)  # noqa: S311  # no secret
    for family in FAMILIES:
        lines = []
        for table in (RAW, MANGLE, NAT):
            chains = [chain for chain in BUILT_IN_CHAINS[table] if chain in ("PREROUTING", "OUTPUT", "POSTROUTING")]
            lines += [f"*{table}", ":LOCAL-TRAFFIC - [0:0]", "-A LOCAL-TRAFFIC -p tcp -m tcp --dport 1 -j ACCEPT"]
            for _ in range(count // 6):
                chain = chosen.choice(chains)
                lines.append(f"-A {chain} {chosen.choice(rules_for(table, chain, family))}")
            lines.append("COMMIT")
        case.restore(namespace, family, "\n".join(lines) + "\n")

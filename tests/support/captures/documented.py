"""A capture for each documented setting, and for those that belong together."""

from capture.model.addresses import parse_address, parse_network
from capture.model.ruleset import Span
from capture.model.ruleset import only as P  # noqa: N812  # a port, or an id, in a table of many
from capture.settings.config import CaptureConfig
from capture.settings.parsers import Selection, UidPorts

NETWORKS = tuple(map(parse_network, ("10.0.0.0/8", "203.0.113.0/24", "2001:db8::/32")))
SERVERS = (parse_address("10.96.0.10"), parse_address("fd00::a"))
DOCUMENTED: dict[str, CaptureConfig] = {
    "nothing": CaptureConfig(),
    "-p": CaptureConfig(proxy_port=16001),
    "-z": CaptureConfig(inbound_capture_port=16006),
    "-e": CaptureConfig(inbound_tunnel_port=443),
    "-u": CaptureConfig(proxy_uids=(P(1337), P(4444))),
    "-g": CaptureConfig(proxy_gids=(P(1), P(2))),
    "-m": CaptureConfig(mode="TPROXY"),
    "-m with -t": CaptureConfig(mode="TPROXY", tproxy_mark=77),
    "-b": CaptureConfig(inbound_ports=Selection((P(80), Span(8000, 8100)))),
    "-b none": CaptureConfig(inbound_ports=Selection()),
    "-b with -m": CaptureConfig(mode="TPROXY", inbound_ports=Selection((P(80), P(81)))),
    "-d": CaptureConfig(excluded_inbound_ports=(P(15021), Span(9000, 9100))),
    "-d with -m": CaptureConfig(mode="TPROXY", excluded_inbound_ports=(P(15021),)),
    "-c": CaptureConfig(excluded_interfaces=("other0",)),
    "-c with -m": CaptureConfig(mode="TPROXY", excluded_interfaces=("other0", "vif+")),
    "-i": CaptureConfig(outbound_networks=Selection(NETWORKS)),
    "-i none": CaptureConfig(outbound_networks=Selection()),
    "-i none with -q": CaptureConfig(outbound_networks=Selection(), outbound_ports=(P(443),)),
    "-x": CaptureConfig(excluded_outbound_networks=NETWORKS),
    "-q": CaptureConfig(outbound_networks=Selection(NETWORKS), outbound_ports=(P(443), Span(100, 200))),
    "-o": CaptureConfig(excluded_outbound_ports=(P(5432), Span(6000, 6010))),
    "-k": CaptureConfig(rerouted_interfaces=("vif0",)),
    "-k with -i": CaptureConfig(rerouted_interfaces=("vif0",), outbound_networks=Selection(NETWORKS)),
    "owner groups": CaptureConfig(owner_groups=Selection((P(202), P(203)))),
    "owner groups excluded": CaptureConfig(excluded_owner_groups=(P(888), P(889))),
    "--redirect-dns": CaptureConfig(
        captures_dns=True, name_servers=tuple(map(parse_address, ("10.96.0.10", "fd00::a")))
    ),
    "--capture-all-dns": CaptureConfig(captures_dns=True, captures_all_dns=True),
    "--drop-invalid": CaptureConfig(drops_invalid=True),
    "--exclude-inbound-cidrs": CaptureConfig(excluded_inbound_networks=NETWORKS),
    "uid and ports": CaptureConfig(uid_port_exclusions=(UidPorts("tcp", (P(443),), (P(2000),)),)),
}

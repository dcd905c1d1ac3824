"""Every option once: names, default, parser, help. Flags, environment, annotations and docs come from here.

``capture.settings.settings`` has the given texts, ``capture.settings.config`` what holds in a pod.
Names and short flags are those of upstream's ``istio-iptables``, so that its users find them again.
"""

from __future__ import annotations

from capture.model import conventions
from capture.model.values import Value
from capture.settings import parsers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Generic, TypeVar

    T = TypeVar("T")

    class GenericValue(Value, Generic[T]):
        """A base that makes Option generic for the type checker."""

else:
    T = "T"
    GenericValue = {T: Value}  # subscripting this is all that happens at run time


OWN_PREFIX = "CAPTURE_"
"""How our own environment variables begin."""


class Option(GenericValue[T]):
    """One option: how it is called everywhere, and how its text becomes a value.

    ``flag`` is the long flag without dashes; it is also the name in the environment, in upper case with
    underscores. An option without a flag has ``environment`` names only.
    """

    not_compared = (
        "default", "parse", "expected", "help", "short", "annotations", "metavar", "topic", "is_switch",
        "empty_means_default", "choices",
    )  # fmt: skip

    flag: str
    default: str
    parse: Callable[[str], T]
    expected: str
    help: str
    short: str = ""
    environment: tuple[str, ...] = ()
    annotations: tuple[str, ...] = ()
    metavar: str = ""
    topic: str = "Capture"
    is_switch: bool = False
    empty_means_default: bool = False
    choices: tuple[str, ...] = ()
    """The only values, if they can be listed; a shell completes them."""

    @property
    def name(self) -> str:
        """Return how an error names the option: its flag, or its variable."""
        return f"--{self.flag}" if self.flag else self.environment[0]

    @property
    def variables(self) -> tuple[str, ...]:
        """Return the environment variables that set it; of several the last one counts, as upstream has it.

        Upstream's flags, and those without a variable here, are looked up by their own name. Our own have a prefix,
        because images use names such as PROFILE for something else.
        """
        is_prefixed = any(variable.startswith(OWN_PREFIX) for variable in self.environment)
        own = (self.flag.upper().replace("-", "_"),) if self.flag and not is_prefixed else ()
        return own + self.environment


PORT_LIST = "ports (1-65535) or ranges such as 8000-8100, separated by commas"
NETWORK_LIST = "networks such as 10.0.0.0/8 or fd00::/8, separated by commas"
USER_LIST = "user ids, ranges of ids, or names of users that exist, separated by commas"
GROUP_LIST = "group ids, ranges of ids, or names of groups that exist, separated by commas"
INTERFACE_LIST = (
    "interface names, at most 256 (each at most 15 bytes, no blank, no '/'; a trailing '+' for any ending),"
    " separated by commas"
)
EXCLUDED_BY_DEFAULT = f"{conventions.METRICS_PORT},{conventions.HEALTH_PORT},{conventions.STATUS_PORT}"
TRAFFIC_PREFIX = "traffic.sidecar.istio.io/"

PORT_TOPIC = "Redirect ports"
EXCLUSION_TOPIC = "Exclusions"
DNS_TOPIC = "DNS"
TPROXY_TOPIC = "TPROXY"
BACKEND_TOPIC = "Backend"
CHECK_TOPIC = "Checking"
OUTPUT_TOPIC = "Output"


def _switch(
    flag: str, help_text: str, *, short: str = "", environment: tuple[str, ...] = (), topic: str = "Capture"
) -> Option[bool]:
    return Option(
        flag, "false", parsers.boolean, "true or false (or 1, 0, t, f)", help_text,
        short=short, environment=environment, topic=topic, is_switch=True,
    )  # fmt: skip


def _options_so_far() -> tuple[Option[Any], ...]:
    return tuple([value for value in globals().values() if isinstance(value, Option)])


PROXY_PORT = Option(
    "envoy-port", "15001", parsers.port, "a port (1-65535)",
    "Port to which outbound TCP is sent.",
    short="p", metavar="PORT", topic=PORT_TOPIC,
)  # fmt: skip
INBOUND_CAPTURE_PORT = Option(
    "inbound-capture-port", "15006", parsers.port, "a port (1-65535)",
    "Port to which inbound TCP is sent.",
    short="z", metavar="PORT", topic=PORT_TOPIC,
)  # fmt: skip
INBOUND_TUNNEL_PORT = Option(
    "inbound-tunnel-port", "15008", parsers.port, "a port (1-65535)",
    "The proxy's tunnel port: REDIRECT leaves it alone, TPROXY does not.",
    short="e", metavar="PORT", topic=PORT_TOPIC,
)  # fmt: skip
PROXY_UID = Option(
    "proxy-uid", "", parsers.list_of(parsers.user_or_group), USER_LIST,
    "Users whose traffic is not captured: the proxy, first, and others. Default: the user $ENVOY_USER if it exists,"
    " else 1337.",
    short="u", metavar="UIDS", topic=EXCLUSION_TOPIC,
)  # fmt: skip
PROXY_GID = Option(
    "proxy-gid", "", parsers.list_of(parsers.user_or_group), GROUP_LIST,
    "Groups whose traffic is not captured. Default: as --proxy-uid.",
    short="g", metavar="GIDS", topic=EXCLUSION_TOPIC,
)  # fmt: skip
INTERCEPTION_MODE = Option(
    "istio-inbound-interception-mode", "REDIRECT", parsers.word_parser("REDIRECT", "TPROXY"), "REDIRECT or TPROXY",
    "How inbound connections reach the proxy; TPROXY keeps the client's address.",
    short="m", annotations=("sidecar.istio.io/interceptionMode",), metavar="MODE", topic=TPROXY_TOPIC,
    empty_means_default=True, choices=("REDIRECT", "TPROXY"),
)  # fmt: skip
INBOUND_PORTS = Option(
    "istio-inbound-ports", "*", parsers.selection_of(parsers.port_list), f"'*', or {PORT_LIST}",
    "Inbound ports to capture; '*' for all, empty for none.",
    short="b", annotations=(TRAFFIC_PREFIX + "includeInboundPorts",), metavar="PORTS",
)  # fmt: skip
EXCLUDED_INBOUND_PORTS = Option(
    "istio-local-exclude-ports", EXCLUDED_BY_DEFAULT, parsers.port_list, PORT_LIST,
    "Inbound ports left alone when all are captured.",
    short="d", annotations=(TRAFFIC_PREFIX + "excludeInboundPorts",), metavar="PORTS", topic=EXCLUSION_TOPIC,
)  # fmt: skip
EXCLUDED_INBOUND_NETWORKS = Option(
    "exclude-inbound-cidrs", "", parsers.networks, NETWORK_LIST,
    "Sources whose inbound connections are left alone. Beyond upstream.",
    metavar="CIDRS", topic=EXCLUSION_TOPIC,
)  # fmt: skip
EXCLUDED_INTERFACES = Option(
    "istio-exclude-interfaces", "", parsers.interfaces, INTERFACE_LIST,
    "Interfaces left alone, both ways.",
    short="c", annotations=(TRAFFIC_PREFIX + "excludeInterfaces",), metavar="NAMES", topic=EXCLUSION_TOPIC,
)  # fmt: skip
OUTBOUND_NETWORKS = Option(
    "istio-service-cidr", "*", parsers.selection_of(parsers.networks), f"'*', or {NETWORK_LIST}",
    "Outbound destinations to capture; '*' for all, empty for none.",
    short="i", annotations=(TRAFFIC_PREFIX + "includeOutboundIPRanges",), metavar="CIDRS",
)  # fmt: skip
EXCLUDED_OUTBOUND_NETWORKS = Option(
    "istio-service-exclude-cidr", "", parsers.networks, NETWORK_LIST,
    "Outbound destinations left alone.",
    short="x", annotations=(TRAFFIC_PREFIX + "excludeOutboundIPRanges",), metavar="CIDRS", topic=EXCLUSION_TOPIC,
)  # fmt: skip
OUTBOUND_PORTS = Option(
    "istio-outbound-ports", "", parsers.port_list, PORT_LIST,
    "Outbound ports captured as well, whatever the destination.",
    short="q", annotations=(TRAFFIC_PREFIX + "includeOutboundPorts",), metavar="PORTS",
)  # fmt: skip
EXCLUDED_OUTBOUND_PORTS = Option(
    "istio-local-outbound-ports-exclude", "", parsers.port_list, PORT_LIST,
    "Outbound ports left alone.",
    short="o", annotations=(TRAFFIC_PREFIX + "excludeOutboundPorts",), metavar="PORTS", topic=EXCLUSION_TOPIC,
)  # fmt: skip
UID_PORT_EXCLUSIONS = Option(
    "exclude-outbound-ports-for-uids", "", parsers.list_of(parsers.uid_ports),
    "PROTOCOL:PORTS:UIDS such as tcp:443:1000-2000, '*' for all ports, separated by commas",
    "Outbound ports at which certain users bypass the proxy. Beyond upstream.",
    metavar="RULES", topic=EXCLUSION_TOPIC,
)  # fmt: skip
REROUTED_INTERFACES = Option(
    "kube-virt-interfaces", "", parsers.interfaces, INTERFACE_LIST,
    "Interfaces whose inbound traffic counts as outbound: those of virtual machines.",
    short="k", annotations=("istio.io/reroute-virtual-interfaces", f"{TRAFFIC_PREFIX}kubevirtInterfaces"),
    metavar="NAMES",
)  # fmt: skip
OWNER_GROUPS = Option(
    "", "*", parsers.selection_of(parsers.list_of(parsers.user_or_group)), f"'*', or {GROUP_LIST}",
    "Groups whose outbound traffic is captured; '*' for all, empty for none.",
    environment=("ISTIO_OUTBOUND_OWNER_GROUPS",), metavar="GROUPS",
)  # fmt: skip
EXCLUDED_OWNER_GROUPS = Option(
    "", "", parsers.list_of(parsers.user_or_group), GROUP_LIST,
    "Groups whose outbound traffic is left alone; only while ISTIO_OUTBOUND_OWNER_GROUPS is '*'.",
    environment=("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",), metavar="GROUPS", topic=EXCLUSION_TOPIC,
)  # fmt: skip
IPV4_LOOPBACK = Option(
    "", "127.0.0.1/32", parsers.ipv4_loopback, "a network within 127.0.0.0/8 such as 127.0.0.1/32",
    "IPv4 destinations that count as the pod talking to itself.",
    environment=("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",), metavar="CIDR", topic=EXCLUSION_TOPIC,
)  # fmt: skip
TPROXY_MARK = Option(
    "istio-inbound-tproxy-mark", str(conventions.ISTIO_MARK), parsers.mark,
    "a number from 1 to 4294967295, decimal or 0x..., but not 1338 (what the proxy sends to its own pod)",
    "Mark of packets that belong to the transparent proxy.",
    short="t", metavar="MARK", topic=TPROXY_TOPIC,
)  # fmt: skip
TPROXY_ROUTE_TABLE = Option(
    "istio-inbound-tproxy-route-table", str(conventions.ISTIO_ROUTE_TABLE), parsers.route_table,
    "a number from 1 to 4294967295, but not 253, 254 or 255 (default, main, local)",
    "Routing table that delivers marked packets locally.",
    short="r", metavar="TABLE", topic=TPROXY_TOPIC,
)  # fmt: skip
REDIRECT_DNS = _switch(
    "redirect-dns", "Send DNS for the servers of /etc/resolv.conf to the agent on port 15053.",
    environment=("ISTIO_META_DNS_CAPTURE",), topic=DNS_TOPIC,
)  # fmt: skip
CAPTURE_ALL_DNS = _switch(
    "capture-all-dns", "With --redirect-dns: DNS for any server, not only those of /etc/resolv.conf.", topic=DNS_TOPIC,
)  # fmt: skip
DROP_INVALID = _switch(
    "drop-invalid",
    "Drop packets that belong to no connection, instead of letting the kernel answer them with a reset.",
    environment=("INVALID_DROP",),
)  # fmt: skip
DUAL_STACK = _switch(
    "dual-stack",
    "The mesh is dual stack: with --ip-families mesh, IPv6 is captured whatever the pod's primary address is.",
    environment=("ISTIO_AGENT_DUAL_STACK", "ISTIO_DUAL_STACK"),
)  # fmt: skip
IP_FAMILIES = Option(
    "ip-families", "both", parsers.word_parser("both", "mesh", "ipv4"), "both, mesh or ipv4",
    "Families to capture: both; as Istio does (mesh: IPv6 too if the mesh is dual stack, the pod's primary address is"
    " IPv6, there is no address yet, or the proxy's environment is not known); or IPv4 alone.",
    environment=("CAPTURE_IP_FAMILIES",), metavar="FAMILIES", empty_means_default=True,
    choices=("both", "mesh", "ipv4"),
)  # fmt: skip
OTHER_FAMILY = Option(
    "other-family", "pass", parsers.word_parser("pass", "reject"), "pass or reject",
    "TCP of a family that is not captured: let it bypass the proxy, or answer it with a reset (except over lo).",
    environment=("CAPTURE_OTHER_FAMILY",), metavar="WHAT", empty_means_default=True, choices=("pass", "reject"),
)  # fmt: skip
RULE_COMMENTS = _switch(
    "rule-comments", "Give each rule a comment that says what it is for. Beyond upstream.", topic=CHECK_TOPIC,
)  # fmt: skip
RULE_LOGS = _switch(
    "rule-logs",
    "Log what enters each of our chains (in a pod: with net.netfilter.nf_log_all_netns=1). Beyond upstream.",
    topic=CHECK_TOPIC,
)  # fmt: skip
PROFILE = Option(
    "profile", "1.8", parsers.profile, "1.8 (classic) or 1.30 (current)",
    "Layout of the rules, named after the version of Istio that brought it; classic is 1.8, current the newest.",
    environment=("CAPTURE_PROFILE",), metavar="NAME", topic=BACKEND_TOPIC, empty_means_default=True,
    choices=("1.8", "classic", "1.30", "current"),
)  # fmt: skip
CHAIN_NAMES = Option(
    "chain-names", "", parsers.word_parser("", "dash", "underscore"), "dash or underscore",
    "Spelling of the chain names: ISTIO-INBOUND (as in 1.8) or ISTIO_INBOUND (as in later profiles).",
    environment=("CAPTURE_CHAIN_NAMES",), metavar="SPELLING", topic=BACKEND_TOPIC, choices=("dash", "underscore"),
)  # fmt: skip
RULE_OPTIONS = _options_so_far()
"""The options that decide on the rules: every entry point takes these."""

BACKEND = Option(
    "backend", "auto", parsers.word_parser("auto", "iptables", "nftables"), "auto, iptables or nftables",
    "Where the rules live in the kernel; auto takes iptables where it can be used, else nftables.",
    environment=("CAPTURE_BACKEND",), metavar="NAME", topic=BACKEND_TOPIC, empty_means_default=True,
    choices=("auto", "iptables", "nftables"),
)  # fmt: skip
DRIVER = Option(
    "driver", "", parsers.word_parser("", "restore", "iptc", "netlink", "libnftables"),
    "netlink or libnftables (nftables); restore, netlink or iptc (iptables)",
    "How rules are written. Default: the fastest that works here.",
    environment=("CAPTURE_DRIVER",), metavar="NAME", topic=BACKEND_TOPIC,
    choices=("netlink", "libnftables", "restore", "iptc"),
)  # fmt: skip
NATIVE_NFTABLES = _switch(
    "native-nftables", "Use nftables: upstream's word for --backend nftables.", topic=BACKEND_TOPIC
)
FORCE_IPTABLES_BINARY = Option(
    "force-iptables-binary", "", parsers.word_parser("", "nft", "legacy", "iptables-nft", "iptables-legacy"),
    "nft or legacy",
    "Variant of iptables to use, whatever detection says.",
    metavar="VARIANT", topic=BACKEND_TOPIC, choices=("nft", "legacy"),
)  # fmt: skip
BACKEND_OPTIONS = _options_so_far()[len(RULE_OPTIONS) :]
"""Options of how rules are written."""

NETWORK_NAMESPACE = Option(
    "network-namespace", "", str, "the path of a network namespace",
    "Network namespace to program. Default: the one we are in.",
    metavar="PATH", topic=BACKEND_TOPIC,
)  # fmt: skip
CNI_MODE = _switch(
    "cni-mode", "Act from the host on a pod's namespace: users and resolv.conf of the host are not the pod's.",
    topic=BACKEND_TOPIC,
)  # fmt: skip
ALLOW_HOST = _switch(
    "allow-host", "Act on the host's own network namespace. Capturing it cuts the node off.", topic=BACKEND_TOPIC,
)  # fmt: skip
DRY_RUN = _switch(
    "dry-run", "Print what would be sent to the kernel, and change nothing.", short="n", topic=BACKEND_TOPIC
)
RECONCILE = _switch(
    "reconcile", "No effect: rules that differ are always replaced, without a gap. Upstream needs it for that.",
    topic=BACKEND_TOPIC,
)  # fmt: skip
CLEANUP_ONLY = _switch("cleanup-only", "Remove all rules of the capture, and stop.", topic=BACKEND_TOPIC)
FORCE_APPLY = _switch("force-apply", "Write the rules even if they are already in place.", topic=BACKEND_TOPIC)
SKIP_RULE_APPLY = _switch(
    "skip-rule-apply", "Write no rules; for --run-validation in a pod that the CNI plugin has captured.",
    topic=CHECK_TOPIC,
)  # fmt: skip
RUN_VALIDATION = _switch(
    "run-validation", "Prove with connections of our own that capture works; exit code 126 if it does not.",
    topic=CHECK_TOPIC,
)  # fmt: skip
PROBE_PORT = Option(
    "iptables-probe-port", "15002", parsers.port, "a port (1-65535)",
    "Port to which the validation connects; nothing listens there.",
    metavar="PORT", topic=CHECK_TOPIC,
)  # fmt: skip
PROBE_TIMEOUT = Option(
    "probe-timeout", "5s", parsers.seconds, "a duration such as 5s or 500ms, more than 0 and at most 24h",
    "How long the validation may take.",
    metavar="DURATION", topic=CHECK_TOPIC,
)  # fmt: skip
REQUIRE_PROOF = _switch(
    "require-proof",
    "With --run-validation: exit code 125 if something could not be proven, such as for want of a capability.",
    topic=CHECK_TOPIC,
)  # fmt: skip
PROBE_FROM_OUTSIDE = _switch(
    "probe-from-outside",
    "With --run-validation: prove the way in by a veth pair of our own (capabilities NET_ADMIN and SYS_ADMIN).",
    topic=CHECK_TOPIC,
)  # fmt: skip

LOG_OUTPUT_LEVEL = Option(
    "log_output_level", "default:info", parsers.log_level,
    "debug, info, warn, error, fatal or none, for a scope such as default:warn or for all; separated by commas",
    "What istio-init prints at least; the scopes default and all count.",
    metavar="LEVELS", topic=OUTPUT_TOPIC, empty_means_default=True,
)  # fmt: skip
LOG_AS_JSON = _switch(
    "log_as_json", "Print lines of JSON, with the keys of Istio's log: level, time and msg.", topic=OUTPUT_TOPIC,
)  # fmt: skip

OPTIONS = _options_so_far()
INIT_OPTIONS = OPTIONS[len(RULE_OPTIONS + BACKEND_OPTIONS) :]
"""The further options of ``istio-init``."""
NETWORK_OPTIONS = (EXCLUDED_INBOUND_NETWORKS, OUTBOUND_NETWORKS, EXCLUDED_OUTBOUND_NETWORKS, IPV4_LOOPBACK)

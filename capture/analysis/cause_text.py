"""The causes that ``why`` reports: each in words, with its remedy. Pure.

A text is named by the kind of its causes and, where a kind has several texts, by the case. Its first line is the
fault, its second one the remedy. Words in braces are filled in where the cause is found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from capture.model.conventions import APPLY_RECORDED, LO_DOWN_MESSAGE, NO_IPV4, NOTHING_APPLIED, REPAIR_LO
from capture.model.location import Cause, Location
from capture.model.text import enumerated

REAPPLY = f"Run {APPLY_RECORDED}"
REAPPLY_OR_RECREATE = f"{REAPPLY}, or recreate the pod."
APPLY_SETTINGS = "`capture apply` with the pod's settings"
"""What to run where no settings are recorded, and they are known to people alone."""
PUT_BEHIND = "Configure the program that writes the rule to insert it after the capture's."
BOTH_FAMILIES = "Run `capture apply --recorded --ip-families both`; the proxy must listen on it, too."
SOCKET_LB = "socket load balancing of {owner}"
SERVICE_UNSEEN = "so that the proxy does not see the service's address"
EXCEPT_PODS = "With Cilium: set socketLB.hostNamespaceOnly=true, which leaves the connections of pods as they are."
LEFT_ALONE_TEXT = "the CNI plugin left pod {pod} alone at {time}: {reason}"
RECREATE = (
    "Recreate the pod, so that istio-init or the CNI plugin captures it; `capture cni status` looks at the node."
    " For a pod that runs: `capture apply`."
)
SET_DNS_CAPTURE = "set ISTIO_META_DNS_CAPTURE=true in the proxy's environment (proxyMetadata in proxy.istio.io/config)"
APP_ON_PORT = "If it is an app that listens there, let it listen on another port."
FILTER_WRITERS = "NetworkPolicy agents and firewalls in the pod's namespace write such rules."
ACCEPT_LO = "(`-i lo -j ACCEPT`, at OUTPUT `-o lo`)"
RULES_DIFFER = "the live rules differ from the applied ones; {first}{others}"
RESTORE_RULES = f"{REAPPLY}, or recreate the pod; `capture verify` has every difference."
REMOVE_IT = f"{REAPPLY}, which removes it; `capture verify` has every difference."
ZONES_DIFFER = "the look-up and its answer are tracked in different zones of conntrack, so that no answer arrives"
ANSWERS_LOST = "the app's answers do not come back to the proxy"
PROXY_LOOP = "what the proxy sends on (user {uid}) is captured again, and comes back to it for ever"
REMOVE_OTHER_SETS = f"{REAPPLY}: it removes every set but the one it writes."
RESTRICT_RULE = "Restrict the rule to what it is for."
RESTRICT_DIVERTING_RULE = f"{RESTRICT_RULE[:-1]}; `capture verify` has the packets that it diverts."
RUN_AS_ROOT = "Run it as root with group {groups} (runAsUser: 0, capability NET_ADMIN); --proxy-uid names another user."
CANNOT_BE_TOLD = "so that it cannot be told whether a rule of the capture is missing"
NAME_SETTINGS = "Give the pod's settings as options of `capture why`, or run this where the rules were applied."

CAUSE_TEXTS: dict[tuple[str, str], str] = {
    # The whole pod.
    ("no-rules", ""): f"{NOTHING_APPLIED}\n{RECREATE}",
    ("no-rules", "machine"): "nothing is applied here: the machine has no rules\nRun `capture host apply`.",
    ("no-rules", "refused"): """\
        nothing is applied here: the CNI plugin refused the pod at {time}: {reason}
        Correct that cause; the runtime tries again by itself. `capture cni status` has the plugin's last decisions.""",
    ("left-alone", ""): f"{LEFT_ALONE_TEXT}\nTo capture it, change that in the pod's template, and recreate the pod.",
    ("left-alone", "namespace"): f"""\
        {LEFT_ALONE_TEXT}
        Remove its namespace from exclude_namespaces, and recreate the pod.""",
    ("left-alone", "not injected"): f"""\
        {LEFT_ALONE_TEXT}
        To capture it, label its namespace for injection, drop sidecar.istio.io/inject: false, and recreate the pod.""",
    ("host-network", ""): """\
        this is the host's own network namespace{evidence}: a pod with hostNetwork: true cannot be captured
        Name a pod: --pid N (a process in it) or --netns NAME. For a virtual machine see `capture host`.""",
    ("lo-down", ""): f"""\
        {LO_DOWN_MESSAGE}
        {REPAIR_LO}""",
    ("interface-down", ""): """\
        the interface {name} is down: nothing leaves the pod by it, or comes in
        Set it up: `ip link set {name} up` in the pod's namespace, and add its routes again, which went with it.""",
    ("interface-down", "carrier"): """\
        the other end of the interface {name} is down or gone: nothing leaves the pod by it, or comes in
        Recreate the pod: its CNI plugin connects it to the node.""",
    ("interface-down", "bridged"): """\
        the interface {name} has the pod's addresses and is a port of a bridge: nothing comes in for them
        Run `ip link set {name} nomaster` in the pod's namespace, or give the bridge the addresses.""",
    ("interface-missing", ""): """\
        the excluded interface {name} does not exist; there are: {present}
        Correct --istio-exclude-interfaces, or the annotation excludeInterfaces.""",
    ("ingress-filter", ""): """\
        a filter (tc) sends what comes in via {name} to {target}, before any rule, as Kata Containers does
        Leave the pod out of the mesh, or run it with a runtime that uses the pod's network namespace.""",
    ("conntrack-full", ""): """\
        the conntrack table is full: {tracked} of {max_tracked} connections
        Raise net.netfilter.nf_conntrack_max on the node; a captured connection takes two entries.""",
    ("conntrack-nearly-full", ""): """\
        the conntrack table is nearly full: {tracked} of {max_tracked} connections
        Raise net.netfilter.nf_conntrack_max on the node; a captured connection takes two entries.""",
    ("ipsec", ""): """\
        the IPsec policy `{policy}` drops the connection, whatever the rules are
        `ip xfrm policy` in the pod's namespace lists it. Let its program (strongSwan, an operator) leave this out.""",
    ("ipsec", "encrypted"): """\
        the IPsec policy `{policy}` covers the connection: it is encrypted, or lost where there is no key
        `ip xfrm state` in the pod's namespace lists the keys.""",
    ("privileged", ""): """\
        process {process} may leave the capture by {escapes}
        Drop the capabilities in the container's securityContext; docs/what-capture-is-not.md has each way.""",
    # The way to the rules.
    ("no-route", ""): """\
        the pod has no route to {address}, or a policy rule refuses it: the connection fails before any rule decides
        Look at `ip {flag}route`, `ip {flag}rule` and `ip {flag}addr` in the pod's namespace.""",
    ("no-route", "refused"): """\
        a route or policy rule of type {refusal} refuses {address}: the connection fails before any rule decides
        `ip {flag}rule` and `ip {flag}route show table all` in the pod's namespace list it: remove or restrict it.""",
    ("no-route", "group"): """\
        TCP has no connections to {address}, a {refusal} address: connect() fails before any rule decides
        Name the address of one host.""",
    ("no-route", "lo"): """\
        the route to {address} leads to lo, where no one has that address: the connection hangs
        Remove the route: `ip route get {address}` and `ip route show table all` in the pod's namespace show it.""",
    ("no-route", "not own"): """\
        the source that was named is no address of the pod: connect() from it fails
        Name an address that `ip {flag}addr` in the pod's namespace lists.""",
    ("no-route", "answers"): """\
        the answers to {address} are lost, by the pod's routes or a policy rule: the connection hangs
        Look at `ip {flag}route get {address}` in the pod's namespace, and at `ip {flag}rule` (`sport`, `uidrange`).""",
    ("no-route", "address"): """\
        the pod has no address: nothing leaves it, or comes in
        Recreate the pod: its CNI plugin gives it addresses and routes; `ip addr` in its namespace shows them.""",
    ("no-route", "default"): """\
        the pod has no default route for {family}, or a policy rule refuses it: what leaves the pod fails
        Look at `ip {flag}route` and `ip {flag}rule` in the pod's namespace; recreate the pod if a route is missing.""",
    ("no-route", "proxy"): """\
        a policy rule refuses what the proxy (user {uid}) sends to {address}, or leads it to lo: it stays in the pod
        Look at `ip {flag}rule` in the pod's namespace: a `uidrange` there must leave out the proxy's user.""",
    ("no-route", "neighbour"): """\
        {address} does not answer on {name}: what is sent there does not leave the pod
        Look at `ip neigh` and `ip {flag}route` in the pod's namespace; filters of ARP are in `nft list tables arp`.""",
    ("no-route", "neighbour, earlier"): """\
        {address} did not answer on {name} {seconds} s ago, and was not called since: it may answer again
        If connections there fail, look at `ip neigh` and `ip {flag}route` in the pod's namespace.""",
    ("no-route", "source"): """\
        what goes to {address} leaves the pod from ::6, an address of lo: no answer comes
        An address that is tentative, dadfailed or deprecated in `ip -6 addr` is no source: give {name} another one.""",
    ("no-route", "interface"): """\
        the interface {name} has no {family} address: the kernel drops what is redirected there
        Give it one, or leave the interface out of the capture (-c {name}).""",
    ("no-route", "to app"): """\
        a route or policy rule refuses what the proxy sends to the app at {address}
        Look at `ip {flag}rule` in the pod's namespace: table local has to be before rules for the pod itself.""",
    ("no-route", "way back"): """\
        answers leave by {name}, and not by {came}, by which the connection comes in
        Networks that filter by source drop them: `ip rule add from ADDRESS lookup TABLE` leads answers back.""",
    ("no-route", "inbound"): """\
        the pod's routing drops what comes in via {name} from {address}: by a policy rule, or by rp_filter
        Look at `ip {flag}rule`, and at `ip route get POD from {address} iif {name}` in the pod's namespace.""",
    ("no-route", "martian"): """\
        the kernel drops what comes in via {name} from {address}: no other host may have that address (martian source)
        Give what sends it an address of its own.""",
    ("route-missing", ""): f"{{message}}\n{REAPPLY}; until then {{consequence}}.",
    ("route-missing", "taken"): f"""\
        {{message}}; another default route is in its place
        Run `{{command}}`, then {APPLY_RECORDED}; until then {{consequence}}.""",
    ("translated-before", "may"): f"{SOCKET_LB} translates at connect(), before rules, {SERVICE_UNSEEN}\n{EXCEPT_PODS}",
    ("translated-before", ""): f"""\
        {SOCKET_LB} sends the connection to {{address}} port {{port}} at connect(), {SERVICE_UNSEEN}
        {EXCEPT_PODS}""",
    # The rules of the capture.
    ("rule-missing", ""): f"""\
        the applied rule that leads the connection to the proxy is missing: {{rule}}
        {RESTORE_RULES}""",
    ("rule-missing", "any"): f"the applied rules send it to the proxy ({{outcome}}), live ones do not\n{RESTORE_RULES}",
    ("rule-missing", "drift"): f"{RULES_DIFFER}\n{RESTORE_RULES}",
    ("rule-unexpected", ""): f"a rule that was not applied decides on the connection: {{rule}}\n{REMOVE_IT}",
    ("rule-unexpected", "drift"): f"{RULES_DIFFER}\n{REMOVE_IT}",
    ("rule-unexpected", "circle"): f"{PROXY_LOOP}: `{{rule}}` was not applied\n{REMOVE_IT}",
    ("rule-missing", "address"): f"{{message}}\n{REAPPLY}.",
    ("rule-missing", "IPv4"): f"{NO_IPV4}\n{REAPPLY_OR_RECREATE}",
    ("rule-missing", "family"): f"{{message}}\n{REAPPLY_OR_RECREATE}",
    ("rule-missing", "answers"): f"answers are taken for inbound connections, and are lost\n{RESTORE_RULES}",
    ("rule-missing", "zone"): f"{ZONES_DIFFER}: `{{rule}}` is missing\n{RESTORE_RULES}",
    ("rule-missing", "zone, any"): f"{ZONES_DIFFER}: no rule puts both in one\n{RESTORE_RULES}",
    ("rule-unexpected", "zone"): f"{ZONES_DIFFER}: `{{rule}}` was not applied\n{REMOVE_IT}",
    ("foreign-rule", "zone"): f"{ZONES_DIFFER}, because of a foreign rule: {{rule}}\n{RESTRICT_RULE}",
    ("rule-missing", "mark"): f"{ANSWERS_LOST}: `{{rule}}` is missing\n{RESTORE_RULES}",
    ("rule-unexpected", "mark"): f"{ANSWERS_LOST}: `{{rule}}` was not applied\n{REMOVE_IT}",
    ("rule-missing", "circle"): f"{PROXY_LOOP}: `{{rule}}` is missing\n{RESTORE_RULES}",
    ("rule-missing", "circle, any"): f"{PROXY_LOOP}: no rule leaves it out\n{RESTORE_RULES}",
    ("no-record", ""): f"no record here, {CANNOT_BE_TOLD}\n{NAME_SETTINGS}",
    ("no-record", "damaged"): f"""\
        {{fault}}, {CANNOT_BE_TOLD}
        Run `capture apply {{options}}`, if these are the pod's settings{{fit}}, or recreate the pod.""",
    ("no-record", "no jump"): "without a record: {what} is captured; a rule may be missing\n{remedy}",
    ("second-set", ""): f"a second set of capture rules is in {{place}}\n{REMOVE_OTHER_SETS}",
    ("second-set", "decides"): f"""\
        a second set of rules decides first, and sends it to port {{port}}
        {REMOVE_OTHER_SETS}""",
    ("second-set", "alike"): f"""\
        a second set of rules decides first, and sends it to port {{port}}, as the first one would
        {REMOVE_OTHER_SETS}""",
    # What the settings leave out.
    ("excluded", ""): """\
        the settings leave this connection out{reason}
        Change the option or annotation behind that rule, if it should be captured; `capture explain` lists them.""",
    ("excluded", "over lo"): """\
        the capture leaves this connection out{reason}
        Every capture does so within a pod, but for loopback networks that -i names; calls of services are captured.""",
    ("excluded", "no rule"): "no rule of the capture is about it\n`capture explain` lists what is captured.",
    ("excluded", "drop"): "a rule of the capture drops the packet: {reason}\nLook at --drop-invalid and the mode.",
    ("excluded", "everything"): "the settings capture nothing: {options}\nCorrect them, to capture the pod.",
    ("excluded", "live"): f"{{what}} is captured by the live rules; no settings are recorded here\n{NAME_SETTINGS}",
    ("excluded", "all"): "{what} is captured, because of {options}\nIf it should be captured, change that{change}.",
    ("excluded", "pod"): "the settings restrict the capture: {options}\n`capture explain` lists what is captured.",
    ("family-not-captured", ""): f"{{family}} is not captured in this pod\n{BOTH_FAMILIES}",
    ("family-not-captured", "rejected"): f"""\
        {{family}} is not captured in this pod, and --other-family reject refuses its TCP
        {BOTH_FAMILIES} With --other-family pass it bypasses the proxy.""",
    ("family-not-captured", "pod"): f"all addresses of the pod are {{family}}, which is not captured\n{BOTH_FAMILIES}",
    ("family-not-captured", "note"): "{note}\nTo capture it, run `capture apply --recorded --ip-families both`.",
    ("dns-not-captured", "server"): """\
        DNS is captured for the pod's own name servers alone, and {server} is none of them
        To capture look-ups at other servers, run `capture apply --recorded --redirect-dns --capture-all-dns`.""",
    ("dns-not-captured", "resolv.conf"): """\
        resolv.conf of process {process} names {servers}, and DNS is captured for {captured} alone
        To capture look-ups at all servers, run `capture apply --recorded --redirect-dns --capture-all-dns`.""",
    ("dns-not-captured", "no server"): """\
        DNS is captured for known name servers alone, and none was known when the rules were applied
        Run `capture apply --recorded --redirect-dns --capture-all-dns`, or apply it within the pod.""",
    ("dns-not-captured", ""): f"""\
        DNS is not captured
        Run `capture apply --recorded --redirect-dns --capture-all-dns`; in Kubernetes, {SET_DNS_CAPTURE}.""",
    ("not-tcp", ""): """\
        only TCP is captured (and DNS, if that is on), and this is {protocol}
        Nothing to do; a NetworkPolicy can forbid what must not bypass the proxy.""",
    ("proxy-user", ""): """\
        the connection comes from the proxy's user or group (user {uid}, group {gid}), which is never captured
        If this is the application: run it as another user and group than the proxy.""",
    ("proxy-user", "listener"): """\
        the proxy's user {uid} listens on tcp port {ports}, too: if that is the application, it bypasses the proxy
        Run the application as another user and group than the proxy (runAsUser, runAsGroup).""",
    ("proxy-user", "group"): """\
        user {uid} listens on port {port} with the proxy's group {gid}: if that is the app, it bypasses the proxy
        Run the application with another group than the proxy (runAsGroup).""",
    # Foreign rules.
    ("foreign-rule", ""): f"""\
        a foreign rule decides before ours, and lets the connection bypass the proxy
        {PUT_BEHIND}""",
    ("foreign-rule", "transparent"): f"""\
        a foreign rule decides before ours, and hands the connection to what listens on port {{port}}, by TPROXY
        {PUT_BEHIND}""",
    ("foreign-rule", "circle"): """\
        a foreign rule sends the proxy's own connections (user {uid}) back to the proxy: {rule}
        Restrict the rule to other users than {uid}.""",
    ("foreign-rule", "mark"): f"a foreign rule changes a mark that the capture depends on: {{rule}}\n{RESTRICT_RULE}",
    ("foreign-rule", "elsewhere"): """\
        a foreign rule marks {subject} ({mark:#x}), and the policy rule `{route}` leads to {name}: {rule}
        Restrict the rule to what it is for.""",
    ("foreign-rule", "untracked"): """\
        a foreign rule keeps the connection out of connection tracking, and {what}
        Restrict the rule to what it is for: node-local DNS caches write such rules.""",
    ("foreign-rule", "pod"): f"a {{effect}}: {{rule}}{{others}}\n{RESTRICT_DIVERTING_RULE}",
    ("nat-first", "pod"): f"a {{effect}}, to another address or port: {{rule}}{{others}}\n{RESTRICT_DIVERTING_RULE}",
    ("nat-first", ""): f"a foreign rule precedes ours, and sends the connection to {{to}}\n{PUT_BEHIND}",
    ("nat-first", "behind"): f"a foreign rule behind ours translates the destination, to {{to}}\n{RESTRICT_RULE}",
    ("nat-first", "sent on"): f"""\
        a foreign rule sends the proxy's calls to the app elsewhere, to {{to}}
        {RESTRICT_RULE}""",
    ("filtered", ""): f"{{filter}}\nAccept the packet earlier, or relax what drops it. {FILTER_WRITERS}",
    ("filtered", "over lo"): f"{{filter}}\nAccept what uses lo before it {ACCEPT_LO}. {FILTER_WRITERS}",
    ("filtered", "answers"): f"""\
        {{filter}}
        Accept answers before it (`-m conntrack --ctstate ESTABLISHED -j ACCEPT`). {FILTER_WRITERS}""",
    ("filtered", "redirected"): f"""\
        {{filter}}
        Accept {{port}} there, not the port that was called; and all that uses lo {ACCEPT_LO}. {FILTER_WRITERS}""",
    ("source-translated", ""): """\
        a foreign rule gives what leaves the pod by it another source address: {rule}
        Answers go to that address: where it is not the pod's, the connection hangs. Restrict or remove the rule.""",
    ("rerouted", ""): """\
        a foreign rule gives the packet the mark {mark:#x}, and the policy rule `{rule}` refuses it: {words}
        Restrict the rule to what it is for; `ip rule` and `ip route show table all` have the routes.""",
    ("unjudged", ""): """\
        a foreign rule may divert captured traffic, which cannot be judged: {rule}
        Look at the rule; `capture verify` has the packets that it may divert.""",
    ("unjudged", "order"): """\
        a foreign rule diverts the connection if its chain comes before ours, and their order cannot be read: {rule}
        Remove it, or write all rules with one variant of iptables: of chains of one priority the newest is first.""",
    ("unjudged", "drop"): """\
        {drop}, unless a rule that cannot be judged accepts it
        Remove the rule that drops it, or accept the packet before it, without a condition.""",
    ("unjudged", "agent"): """\
        if the agent asks this server, {lost}
        With --capture-all-dns it asks the servers of its own resolv.conf: `capture why udp SERVER:53` judges each.""",
    ("unjudged", "doubt"): "{doubt}\n`capture verify` has all that cannot be judged.",
    ("unjudged", "program"): """\
        {what} of {name} sees packets where no rule does, and may drop them, which cannot be judged
        `{shown_by}` shows it in the pod's namespace; its program has to let the proxy's traffic pass.""",
    ("unjudged", "IPsec"): """\
        the IPsec policies, which may drop connections, cannot be read: {reason}
        Run as root, and look at `ip xfrm policy` in the pod's namespace.""",
    # The proxy's listeners.
    ("not-listening", ""): """\
        no process listens on {port}, to which {kind} connections are sent
        Start the proxy, or see why it ended: `kubectl logs POD -c istio-proxy`. Without a proxy: `capture clean`.""",
    ("not-listening", "other ports"): """\
        no process listens on {port}, to which {kind} connections are sent; the proxy's user listens on {others}
        Give its ports to `capture apply --recorded -p PORT -z PORT`, or read `kubectl logs POD -c istio-proxy`.""",
    ("not-listening", "this port"): """\
        no process listens on {port}, to which {kind} connections are sent; the proxy runs, and listens on tcp {others}
        See why it has not opened this port, too: `kubectl logs POD -c istio-proxy`.""",
    ("not-listening", "TPROXY"): f"""\
        no process listens on {{port}}, to which {{kind}} connections are sent: the proxy is not root, as TPROXY needs
        {RUN_AS_ROOT}""",
    ("not-listening", "full"): """\
        the proxy does not accept: {waiting} waiting on {port}, and the kernel takes no more
        Find out why it hangs (`kubectl logs POD -c istio-proxy`, its CPU limit), or restart it.""",
    ("not-listening", "waiting"): """\
        the proxy has not accepted {waiting} on {port} yet
        Look again: while that number stays, the proxy hangs (`kubectl logs POD -c istio-proxy`, its CPU limit).""",
    ("not-listening", "stopped"): """\
        process {process}, which listens on {port}, is stopped (SIGSTOP): what it should accept hangs
        Find out who stopped it, or let it run: `kill -CONT {process}`.""",
    ("not-listening", "some full"): """\
        {full} of {sockets} sockets on {port} take no more, with {waiting} waiting: what falls to those hangs
        Find out why that thread or process of the proxy hangs (`kubectl logs POD -c istio-proxy`), or restart it.""",
    ("not-listening", "DNS"): f"""\
        no process listens on {{port}}, to which DNS is sent; the proxy runs, and listens on tcp {{others}}
        S{SET_DNS_CAPTURE[1:]}; or `capture apply --recorded --redirect-dns=false --capture-all-dns=false`.""",
    ("not-listening", "app"): """\
        the application listens on {bound} port {port} alone, and the proxy calls it at {arrive}: refused
        Let it listen on 0.0.0.0; in Istio, a Sidecar may name 127.0.0.1 as defaultEndpoint.""",
    ("not-listening", "family"): """\
        what listens on {port} takes {other} only, and {family} is captured, too
        Let the proxy listen on {any_address} as well{alternative}.""",
    ("not-listening", "address"): """\
        what listens on {port} is bound to {bound}, and {kind} connections arrive at {arrive}
        Let the proxy listen on {any_address}.""",
    ("not-listening", "interface"): """\
        what listens on {port} is bound to the interface {bound} alone, and {kind} connections arrive at {arrive}
        Let the proxy bind its listener to no interface (SO_BINDTODEVICE).""",
    ("not-listening", "Envoy"): """\
        Envoy has no listener on {port} for {family}, which is captured
        Give the listener an address of {family}, or capture the other family only (--ip-families).""",
    ("proxy-wrong-user", ""): f"""\
        what listens on {{port}} runs as user {{uid}}, not {{expected}}: what the proxy sends is captured again
        Run it as {{expected}}, or run `capture apply --recorded --proxy-uid {{uid}}`. {APP_ON_PORT}""",
    ("proxy-wrong-user", "TPROXY"): """\
        what listens on {port} runs with {group}, and TPROXY leaves out group {groups}: its calls are captured again
        Run the proxy as root, with group {groups} (runAsUser, runAsGroup).""",
    ("proxy-wrong-user", "root"): f"""\
        the proxy on {{port}} runs as user {{uid}}, whose calls to the app are captured under TPROXY: connections fail
        {RUN_AS_ROOT}""",
    ("proxy-mode", ""): """\
        the rules use {mode}, and the listener on port {port} is configured for {other} ({kind})
        Configure the proxy for {mode}, or run `capture apply --recorded -m {other}`; interceptionMode sets both.""",
    ("proxy-mode", "one port"): """\
        inbound and outbound connections are sent to one port, {port}: the proxy cannot tell them apart
        Give different ports to `capture apply --recorded -p PORT -z PORT`.""",
    ("proxy-mode", "Envoy"): """\
        the rules use {mode}, and Envoy's listener {name} on port {port} is configured for {other}
        Set transparent: {transparent} on it, or run `capture apply --recorded -m {other}`.""",
    ("proxy-mode", "destination"): """\
        Envoy's listener {name} on port {port} does not use the original destination
        Set use_original_dst on it, or add the filter envoy.filters.listener.original_dst.""",
    ("proxy-mode", "mark"): """\
        Envoy's listener on port {port} marks connections with {mark:#x}, and the rules expect {expected:#x}
        Set the same mark in the filter original_src and by --istio-inbound-tproxy-mark.""",
}


_RECORDED = re.compile(f"{APPLY_RECORDED[:-1]}( [^`]*)?`")


def remedy_without_record(remedy: str) -> str:
    """Return a remedy for a namespace whose settings are not recorded."""
    return _RECORDED.sub(lambda matched: APPLY_SETTINGS + (f" and{matched[1]}" if matched[1] else ""), remedy)


def machine_remedy(remedy: str) -> str:
    """Return a remedy for a machine that is captured itself."""
    return _RECORDED.sub(lambda matched: f"{matched[0][:-1]} --allow-host`", remedy)


def cause(kind: str, case: str = "", /, *, where: Location | str | None = None, **words: object) -> Cause:
    """Return the cause of a text, with its words filled in."""
    message, remedy = (line.strip().format(**words) for line in CAUSE_TEXTS[kind, case].splitlines())
    return Cause(kind, message, remedy, where or "", case, words)


LISTED_WORDS = ("port", "kind", "bound", "arrive", "any_address")
"""What may differ between causes that are one fault."""


def as_one(causes: Iterable[Cause]) -> Iterator[Cause]:
    """Yield causes, those that are one fault as one: a proxy that is gone misses all its ports, in both families."""
    faults: dict[tuple[Any, ...], list[dict[str, object]]] = {}
    for single in causes:
        others = (word for word in single.words.items() if word[0] not in LISTED_WORDS)
        faults.setdefault((single.kind, single.case, *others), []).append({**single.words, "where": single.where})
    for (kind, case, *_), alike in faults.items():
        words = {name: enumerated(dict.fromkeys(str(each[name]) for each in alike), "and") for name in alike[0]}
        yield cause(kind, case, **words)

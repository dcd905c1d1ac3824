"""A captured pod with a real Envoy as its sidecar: load balancing, access logs, endpoints that change."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_netns import PodPair
from sidecar.fields import FieldError
from support.generators.meshes import random_mesh
from support.processes.waiting import wait_until
from support.traffic.sidecar_lab import ENDPOINTS, SERVICES, VIP, VIP6, Lab, fetch


@pytest.fixture
def lab(pod_pair: PodPair, tmp_path: Path) -> Lab:
    tmp_path.chmod(0o755)
    return Lab(pod_pair, tmp_path)


def rule(balancer: str) -> str:
    policy = f"{{loadBalancer: {balancer}}}"
    return f"kind: DestinationRule\nmetadata: {{name: d}}\nspec: {{host: details, trafficPolicy: {policy}}}\n"


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_calls_of_an_address_without_a_host_take_turns(lab: Lab, backend: str) -> None:
    config = lab.capture(backend=backend)
    lab.start(lab.bootstrap(config, SERVICES, rule("{simple: ROUND_ROBIN}")))

    assert lab.spread(VIP, 60) == dict.fromkeys(ENDPOINTS, 20)
    assert lab.spread(VIP6, 60) == dict.fromkeys(ENDPOINTS, 20)


@pytest.mark.parametrize("balancer", ["{simple: LEAST_REQUEST}", "{simple: RANDOM}"])
def test_calls_are_spread_over_all_endpoints(lab: Lab, balancer: str) -> None:
    lab.start(lab.bootstrap(lab.capture(), SERVICES, rule(balancer)))

    assert min(lab.spread(VIP, 90).values()) >= 10


@pytest.mark.parametrize("table", ["", ", ringHash: {minimumRingSize: 2048}", ", maglev: {}"])
def test_equal_headers_go_to_one_endpoint(lab: Lab, table: str) -> None:
    lab.start(lab.bootstrap(lab.capture(), SERVICES, rule(f"{{consistentHash: {{httpHeaderName: x-user{table}}}}}")))

    assert sorted(lab.spread(VIP, 30, x_user="ann").values()) == [0, 0, 30]
    assert min(lab.spread(VIP, 60, x_user="user-{}").values()) > 0


def test_a_client_address_goes_to_one_endpoint_in_http_and_tcp(lab: Lab) -> None:
    lab.start(lab.bootstrap(lab.capture(), SERVICES, rule("{consistentHash: {useSourceIp: true}}")))

    assert sorted(lab.spread(VIP, 20).values()) == [0, 0, 20]
    assert len({fetch(lab.client, VIP, 3306).endpoint for _ in range(20)}) == 1


def test_queries_and_cookies_are_keys(lab: Lab) -> None:
    config = lab.capture()
    lab.start(lab.bootstrap(config, SERVICES, rule("{consistentHash: {httpQueryParameterName: user}}")))
    by_query = {fetch(lab.client, VIP, 9080, path=f"/?user={number % 2}&n={number}").endpoint for number in range(20)}
    lab.start(lab.bootstrap(config, SERVICES, rule("{consistentHash: {httpCookie: {name: user, ttl: 60s}}}")))
    by_cookie = {fetch(lab.client, VIP, 9080, cookie="user=ann").endpoint for _ in range(20)}

    assert len(by_query) <= 2
    assert len(by_cookie) == 1


def test_a_subset_has_the_endpoints_whose_pods_have_its_labels(lab: Lab) -> None:
    pods = """
kind: List
items:
- {kind: Pod, metadata: {name: one, labels: {app: details, version: v1}}}
- {kind: Pod, metadata: {name: two, labels: {app: details, version: v2}}}
"""
    subsets = (
        "kind: DestinationRule\nmetadata: {name: d}\nspec:\n  host: details\n"
        "  subsets: [{name: v1, labels: {version: v1}}, {name: v3, labels: {version: v3}}]\n"
    )
    lab.start(lab.bootstrap(lab.capture(), SERVICES, pods, subsets))

    clusters = lab.pod.run(["curl", "-s", "http://127.0.0.1:15000/clusters"], uid=1337).stdout

    def members(subset: str) -> set[str]:
        host = "details.default.svc.cluster.local"
        return set(
            re.findall(
                rf"^outbound\|9080\|{subset}\|{re.escape(host)}::([\d.]+):8080::cx_active", clusters, re.MULTILINE
            )
        )

    assert members("v1") == {ENDPOINTS[0]}
    assert members("v3") == set()
    assert members("") == set(ENDPOINTS)


def test_endpoints_change_without_a_restart(lab: Lab) -> None:
    config = lab.capture()
    directory = lab.directory / "endpoints"
    round_robin = rule("{simple: ROUND_ROBIN}")
    lab.start(lab.bootstrap(config, SERVICES, round_robin, directory=str(directory)))
    before = lab.spread(VIP, 6)

    lab.bootstrap(config, SERVICES.replace(ENDPOINTS[1], "10.77.0.23"), round_robin, directory=str(directory))
    wait_until(lambda: not lab.spread(VIP, 6)[ENDPOINTS[1]], pause=0.05)

    # Counted anew: the change may have come between two of the requests that showed it.
    assert before == dict.fromkeys(ENDPOINTS, 2)
    assert lab.spread(VIP, 6) == {ENDPOINTS[0]: 3, ENDPOINTS[1]: 0, ENDPOINTS[2]: 3}


# --- access logs: section 1.4 of the seed -----------------------------------------------------------

FILE_3 = "mesh: |-\n  accessLogFile: /dev/stdout\n"
FILE_5_FORMAT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%" %RESPONSE_CODE%'
    " retry_attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT% flags=%RESPONSE_FLAGS% details=%RESPONSE_CODE_DETAILS%"
)
FILE_5 = f"{FILE_3}  accessLogEncoding: TEXT\n  accessLogFormat: |\n    {FILE_5_FORMAT}\n"
CONFIG_MAP = """
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |-
    accessLogFile: /dev/stdout
  meshNetworks: "networks: {}"
"""
ENVOY = "accessLogging: [{providers: [{name: envoy}]}]"
FILE_4 = f"selector: {{matchLabels: {{app: productpage}}}}, {ENVOY}"


CODE_ONLY = '{path: /dev/stdout, logFormat: {labels: {code: "%RESPONSE_CODE%"}}}'


def telemetry(namespace: str, spec: str, name: str = "t") -> str:
    return (
        f"apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec: {{{spec}}}\n"
    )


WORD, QUOTED = r"\S+", r'"[^"]*"'
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
ADDRESS = r"(?:-|\[[0-9a-f:.]+\]:\d+|[\d.]+:\d+)"
SHELL_3 = re.compile(
    rf'\[{TIME}\] "(?:- - -|[A-Z]+ \S+ HTTP/[\d.]+)" \d+ {WORD} {WORD} {WORD} {QUOTED} \d+ \d+ \d+ (?:\d+|-)'
    rf"(?: {QUOTED}){{5}} {WORD}(?: {ADDRESS}){{3}} {WORD} {WORD}"
)
SHORT = re.compile(r'\[[^]]+\] "GET /yes" (200|503) retry_attempts=\d+ flags=\S+ details=\S+')


@pytest.mark.parametrize(
    ("texts", "lines"),
    [
        pytest.param((), 0, id="nothing set"),
        pytest.param((FILE_3,), 2, id="File 3"),
        pytest.param((CONFIG_MAP,), 2, id="ConfigMap istio"),
        pytest.param((FILE_5,), 2, id="File 5"),
        pytest.param(("accessLogFile: /dev/stdout\naccessLogEncoding: JSON\n",), 2, id="JSON"),
        pytest.param((telemetry("default", FILE_4),), 2, id="File 4 selects this pod"),
        pytest.param((telemetry("default", FILE_4.replace("productpage", "ratings")),), 0, id="another pod"),
        pytest.param((telemetry("other", ENVOY),), 0, id="another namespace"),
        pytest.param((telemetry("default", ENVOY),), 2, id="the whole namespace"),
        pytest.param((telemetry("istio-system", ENVOY),), 2, id="the root namespace"),
        pytest.param((FILE_3, telemetry("default", "accessLogging: [{disabled: true}]")), 0, id="namespace off"),
        pytest.param(
            (
                telemetry("istio-system", ENVOY, "a"),
                telemetry("default", "accessLogging: [{disabled: true}]", "b"),
                telemetry("default", FILE_4, "c"),
            ),
            2,
            id="root on, namespace off, workload on",
        ),
        pytest.param(
            (telemetry("default", 'accessLogging: [{filter: {expression: "response.code >= 400"}}]'),), 1, id="filter"
        ),
        pytest.param(
            (
                f"extensionProviders: [{{name: mine, envoyFileAccessLog: {CODE_ONLY}}}]\n",
                telemetry("default", "accessLogging: [{providers: [{name: mine}]}]"),
            ),
            2,
            id="a provider of the mesh config",
        ),
    ],
)
def test_access_logs_have_the_requests_that_their_filter_takes(
    lab: Lab, texts: tuple[str, ...], lines: int, request: pytest.FixtureRequest
) -> None:
    lab.start(lab.bootstrap(lab.capture(), SERVICES, *texts))

    assert fetch(lab.client, VIP, 9080, path="/yes").status == 200
    assert fetch(lab.client, VIP, 9081, path="/yes").status == 503
    log = lab.log(lines)

    assert len(log) == lines
    case = request.node.callspec.id
    if case == "File 5":
        assert all(SHORT.fullmatch(line) for line in log), log
    elif case in ("JSON", "a provider of the mesh config"):
        assert [json.loads(line).get("response_code", json.loads(line).get("code")) for line in log] == [200, 503]
    else:
        assert all(SHELL_3.fullmatch(line) for line in log), log
        assert all(" outbound|9080||details.default.svc.cluster.local " in line for line in log if " 200 " in line)


def test_a_field_that_is_not_supported_is_refused_by_its_path(lab: Lab) -> None:
    with pytest.raises(FieldError, match=r"mesh config .*: mesh\.enableTracing: not supported"):
        lab.bootstrap(lab.capture(), "mesh: |-\n  accessLogFile: /dev/stdout\n  enableTracing: true\n")


# --- random meshes -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(4, 200))])
def test_a_random_mesh_is_valid_and_serves(lab: Lab, seed: int) -> None:
    mesh = random_mesh(seed)
    directory = str(lab.directory / "endpoints") if seed % 2 else ""
    lab.start(lab.bootstrap(lab.capture(), mesh.text, directory=directory), validate=True)

    reply = fetch(lab.client, mesh.address, mesh.port, host=mesh.host)

    assert reply.status == 200
    assert reply.endpoint in ENDPOINTS


def test_the_command_takes_ports_families_and_name_servers_from_the_record(lab: Lab) -> None:
    lab.capture(proxy_port=16001, inbound_capture_port=16006, redirect_dns=True, capture_all_dns=True)
    services = lab.directory / "services.yaml"
    services.write_text(SERVICES)
    program = [str(Path(sys.executable).with_name("capture")), "sidecar", "--netns", lab.pod.path]

    made = subprocess.run([*program, "--filename", str(services)], capture_output=True, text=True, check=True).stdout
    lab.start(json.loads(made))

    assert fetch(lab.client, VIP, 9080).endpoint in ENDPOINTS
    with lab.client.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
        query.settimeout(5)
        query.sendto(A_RECORD_OF_DETAILS, ("10.77.0.1", 53))
        assert socket.inet_aton(VIP) in query.recv(512)


A_RECORD_OF_DETAILS = (
    bytes.fromhex("000101000001000000000000")
    + b"".join(bytes([len(part)]) + part.encode() for part in ["details", "default", "svc", "cluster", "local"])
    + bytes.fromhex("0000010001")
)

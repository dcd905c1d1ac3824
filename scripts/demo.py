"""The main job, for real: capture a pod's traffic and show it pass Envoy. Started by `make demo`.

    outside ------- veth ------- pod
    server :9080                 app :80 as uid 1000, metrics :15020
                                 Envoy on 15001 and 15006 as uid 1337

`istio-init` programs the pod. Then requests go out and in, over IPv4 and IPv6, and each is checked three times: by the
header that the far end saw, by Envoy's access log, and by what `capture trace` prints about it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_netns import CommandError, Endpoint, NamespaceFactory, Pod
from support.processes.private_mounts import make_private
from support.traffic.envoy_bootstrap import INBOUND_PORT, OUTBOUND_PORT, Service, Sidecar
from support.traffic.envoy_proxy import PROXY_UID, Envoy, LogLine, start_envoy
from support.traffic.proxies import APP_UID, Seen, start_app

APP_PORT = 80
SERVER_PORT = 9080
EXCLUDED_PORT = 15020
MISSING = (pytest.skip.Exception, pytest.fail.Exception)
"""What the tests' helpers raise where a package or a program is not there."""
SERVICE = ("10.96.94.35", "fd00:96::35")
PROGRAMS = Path(sys.executable).parent
ISTIO_INIT = shlex.split(
    "istio-init istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -x '' -b '*' -d 15090,15021,15020"
)

# A request by a process of its own, so that its user is whom the kernel sees.
FETCH = """
import http.client, sys
address, port, path, host = sys.argv[1:]
connection = http.client.HTTPConnection(address, int(port), timeout=5)
connection.request("GET", path, headers={"Host": host, "User-Agent": "demo"})
print(connection.getresponse().read().decode())
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request, and the side of the proxy that has to take it ("" for none)."""

    story: str
    sender: Pod
    destination: Endpoint
    side: str
    uid: int = APP_UID
    path: str = "/"
    host: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What happened to a request."""

    request: Request
    way: str
    right: bool
    log: tuple[LogLine, ...] = ()
    trace: str = ""


def requests(pod: Pod, outside: Pod) -> Iterator[Request]:
    """What is sent, in both families: out and in through the proxy, and the two ways past it."""
    families = (("IPv4", pod.ipv4, outside.ipv4, SERVICE[0]), ("IPv6", pod.ipv6, outside.ipv6, SERVICE[1]))
    for family, pod_address, outside_address, service in families:
        server = Endpoint(outside_address, SERVER_PORT)
        yield Request(story=f"{family} out, to another pod", sender=pod, destination=server, side="outbound")
        yield Request(
            story=f"{family} out, to a service",
            sender=pod,
            destination=Endpoint(service, SERVER_PORT),
            side="outbound",
            path="/details/0",
            host=f"details:{SERVER_PORT}",
        )
        app = Endpoint(pod_address, APP_PORT)
        yield Request(story=f"{family} in, to the app", sender=outside, destination=app, side="inbound")
        yield Request(story=f"{family} out, by the proxy", sender=pod, uid=PROXY_UID, destination=server, side="")
        excluded = Endpoint(pod_address, EXCLUDED_PORT)
        yield Request(story=f"{family} in, to an excluded port", sender=outside, destination=excluded, side="")


def sidecar(outside: Pod) -> Sidecar:
    """Return the Envoy of the pod. It alone knows the service, whose addresses no host has."""
    details = Service(
        host="details.default.svc.cluster.local",
        addresses=SERVICE,
        port=SERVER_PORT,
        protocol="http",
        endpoints=(outside.ipv4,),
    )
    return Sidecar(services=(details,))


def fetch(request: Request) -> Seen:
    """Send the request and return what the far end saw."""
    to = request.destination
    words = [to.address, str(to.port), request.path, request.host or str(to)]
    answer = request.sender.run(
        [sys.executable, "-I", "-S", "-c", FETCH, *words], uid=request.uid, reads_everything=True
    )
    return Seen.decode(answer.stdout)


def send(request: Request, envoy: Envoy) -> Result:
    """Send the request and return whether it went the way it should, by header and log."""
    before = len(envoy.log())
    try:
        seen = fetch(request)
    except CommandError as error:
        last_words = error.stderr.strip().splitlines() or ["no answer"]
        return Result(request=request, way=f"failed: {last_words[-1]}", right=False)
    log = tuple(envoy.log(before + 1, timeout=5 if request.side else 0.1)[before:])
    expected = [(request.side, request.destination)] if request.side else []
    logged = [(line.flow.side, line.flow.destination) for line in log]
    right = logged == expected and seen.passed == tuple(side for side, _ in expected)
    way = f"through Envoy, {logged[0][0]}" if logged else "straight, past Envoy"
    return Result(request=request, way=way, right=right, log=log)


def traced(result: Result, pod: Pod) -> Result:
    """Add the verdict of `capture trace`, which has to agree."""
    request = result.request
    way = ["--uid", str(request.uid)] if request.sender is pod else ["--in", pod.interface]
    command = ["capture", "trace", "tcp", str(request.destination), *way]
    outcome = json.loads(run_program(pod, [*command, "--format", "json"]))["outcome"]
    agrees = outcome == (f"proxy-{request.side}" if request.side else "direct")
    text = f"$ {shlex.join(command)}\n{run_program(pod, command)}" if VERBOSE else ""
    return dataclasses.replace(result, right=result.right and agrees, trace=text)


def run_program(pod: Pod, command: list[str]) -> str:
    """Run one of the project's programs in the pod and return what it printed."""
    return pod.run([PROGRAMS / command[0], *command[1:]]).stdout


def main() -> int:
    """Set the scene, capture, send, show; 0 if every request went its way."""
    if os.geteuid() != 0:
        print("the demo makes network namespaces: run it as root (sudo make demo)", file=sys.stderr)
        return 2
    started = time.monotonic()
    make_private()  # nothing stays under /run
    try:
        with NamespaceFactory() as netns:
            results = play(netns)
    except (CommandError, FileNotFoundError, TimeoutError, subprocess.TimeoutExpired, *MISSING) as error:
        print(f"\n{paint(f'The demo stopped: {error}', RED)}")
        return 1
    wrong = [result.right for result in results].count(False)
    took = f"{time.monotonic() - started:.1f} s"
    if wrong:
        heading(
            paint(f"{wrong} of {len(results)} requests went the wrong way, or `capture trace` disagrees. {took}", RED)
        )
        return 1
    heading(paint(f"All {len(results)} requests went the way they should, and `capture trace` agrees. {took}", GREEN))
    return 0


def play(netns: NamespaceFactory) -> list[Result]:
    """Show everything, and return what happened to the requests."""
    pod, outside = netns.pod_pair("pod")
    start_app(pod, APP_PORT)
    start_app(pod, EXCLUDED_PORT, label="metrics")
    start_app(outside, SERVER_PORT, label="server")
    envoy = start_envoy(pod, sidecar(outside))
    heading("Two pods, joined by a veth pair")
    print(f"  pod      {pod.ipv4}  {pod.ipv6}   app on port {APP_PORT}, uid {APP_UID};", end=" ")
    print(f"Envoy on {OUTBOUND_PORT} and {INBOUND_PORT}, uid {PROXY_UID}")
    print(f"  outside  {outside.ipv4}  {outside.ipv6}   server on port {SERVER_PORT}")

    everything = list(requests(pod, outside))
    uncaptured = dataclasses.replace(everything[0], story="before: IPv4 out", side="")
    before = send(uncaptured, envoy)
    install_capture(pod)
    after = [traced(send(request, envoy), pod) for request in everything]
    results = [before, *after]
    show(pod, results)
    return results


def install_capture(pod: Pod) -> None:
    """Run istio-init in the pod, as its init container does."""
    heading(f"$ {shlex.join(ISTIO_INIT)}")
    started = time.monotonic()
    printed = run_program(pod, ISTIO_INIT)
    print(printed if VERBOSE else f"  the pod is captured, after {time.monotonic() - started:.2f} s")


def show(pod: Pod, results: list[Result]) -> None:
    """Print the pod's table, Envoy's log and a line for each request; with VERBOSE=1 all tables and each trace."""
    dump = ["capture", "dump", *([] if VERBOSE else ["--family", "ipv4", "--table", "nat"])]
    heading(f"$ {shlex.join(dump)}    # after the requests below")
    print(run_program(pod, dump), end="")
    if VERBOSE:
        heading("Which rule decides")
        print("\n".join(result.trace for result in results if result.trace))
    heading("Envoy's access log")
    for result in results:
        for line in result.log:
            print(f"  {line.text}")
    heading("The requests" if VERBOSE else "The requests (VERBOSE=1 shows which rule decides)")
    for result in results:
        mark = paint("ok   ", GREEN) if result.right else paint("WRONG", RED)
        print(f"  {mark} {result.request.story:<29} to {result.request.destination!s:<19} {result.way}")


VERBOSE = os.environ.get("VERBOSE", "") not in ("", "0")
RED, GREEN, BOLD = "31", "32", "1"


def paint(text: str, colour: str) -> str:
    """Colour the text where a terminal shows it."""
    return f"\033[{colour}m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def heading(text: str) -> None:
    """Start a part of the story."""
    print(f"\n{paint(text, BOLD)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

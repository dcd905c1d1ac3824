"""The main job, for real: capture a pod's traffic and show it pass a proxy. Started by `make demo`.

    outside ------- veth ------- pod
    server :8080                 app :80 as uid 1000, health check :15021
                                 mitmdump on 15001 and 15006 as uid 1337

`istio-init` programs the pod. Then requests go out and in, over IPv4 and IPv6, and each is checked
twice: by the header that the far end saw, and by the proxy's own log.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from proxies import APP_UID, INBOUND_PORT, OUTBOUND_PORT, PROXY_UID, Proxy, Seen, start_app, start_mitmdump
from pytest_netns import CommandError, Endpoint, NamespaceFactory, Pod

APP_PORT = 80
SERVER_PORT = 8080
EXCLUDED_PORT = 15021
PROGRAMS = Path(sys.executable).parent
ISTIO_INIT = shlex.split(
    "istio-init istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -x '' -b '*' -d 15090,15021,15020"
)
DUMP = ["capture", "dump"]

# A request by a process of its own, so that its user is whom the kernel sees.
FETCH = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=5)
connection.request("GET", "/")
print(connection.getresponse().read().decode())
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request, and the side of the proxy that has to take it ("" for none)."""

    story: str
    sender: Pod
    uid: int
    destination: Endpoint
    side: str


def requests(pod: Pod, outside: Pod) -> Iterator[Request]:
    """What is sent, in both families: out and in through the proxy, and the two ways past it."""
    for family, pod_address, outside_address in (("IPv4", pod.ipv4, outside.ipv4), ("IPv6", pod.ipv6, outside.ipv6)):
        server = Endpoint(outside_address, SERVER_PORT)
        app = Endpoint(pod_address, APP_PORT)
        health = Endpoint(pod_address, EXCLUDED_PORT)
        yield Request(story=f"{family} out, by the app", sender=pod, uid=APP_UID, destination=server, side="outbound")
        yield Request(story=f"{family} in, to the app", sender=outside, uid=APP_UID, destination=app, side="inbound")
        yield Request(
            story=f"{family} out, by the proxy's user", sender=pod, uid=PROXY_UID, destination=server, side=""
        )
        yield Request(
            story=f"{family} in, to an excluded port", sender=outside, uid=APP_UID, destination=health, side=""
        )


def fetch(request: Request) -> Seen:
    """Send the request and return what the far end saw."""
    address, port = request.destination.address, str(request.destination.port)
    answer = request.sender.run(
        [sys.executable, "-I", "-S", "-c", FETCH, address, port], uid=request.uid, reads_everything=True
    )
    return Seen.decode(answer.stdout)


def check(request: Request, proxy: Proxy) -> bool:
    """Send the request, say which way it went, and return whether that is the way it should go."""
    before = len(proxy.flows())
    where = f"{request.story:<31} to {request.destination!s:<20}"
    try:
        seen = fetch(request)
    except CommandError as error:
        last_words = error.stderr.strip().splitlines() or ["no answer"]
        return verdict(where, f"failed: {last_words[-1]}", right=False)
    logged = proxy.flows(at_least=before + (1 if request.side else 0))[before:]
    expected = [(request.side, request.destination)] if request.side else []
    right = [(flow.side, flow.destination) for flow in logged] == expected and seen.passed == tuple(
        filter(None, [request.side])
    )
    if logged:
        way = f"through the proxy ({', '.join(f'{flow.side}, meant for {flow.destination}' for flow in logged)})"
    else:
        way = "straight, past the proxy"
    return verdict(where, way, right=right)


def install_capture(pod: Pod) -> None:
    """Run istio-init in the pod, as its init container does."""
    heading(f"$ {shlex.join(ISTIO_INIT)}")
    started = time.monotonic()
    told, _, _rules = run_program(pod, ISTIO_INIT).partition("\n\n")
    took = time.monotonic() - started
    print(f"{told}\n  done in {took:.2f} s; it ends with the rules, which come below with traffic")


def show_rules(pod: Pod) -> None:
    """Print the pod's live rules with their counters."""
    heading(f"$ {shlex.join(DUMP)}")
    print(run_program(pod, DUMP), end="")


def check_trace(request: Request, pod: Pod) -> bool:
    """Ask where the rules send a request that was really sent; return whether that is where it went."""
    address, port = request.destination.address, request.destination.port
    way = ["--uid", str(request.uid)] if request.sender is pod else ["--in", pod.interface]
    command = ["capture", "trace", "tcp", f"[{address}]:{port}" if ":" in address else f"{address}:{port}", *way]
    print(paint(f"$ {shlex.join(command)}", BOLD))
    told = run_program(pod, command)
    print("".join(f"  {line}\n" for line in told.splitlines()))
    outcome = f"proxy-{request.side}" if request.side else "direct"
    return f"\n{outcome}:" in told


def run_program(pod: Pod, command: list[str]) -> str:
    """Run one of the project's programs in the pod and return what it printed."""
    return pod.run([PROGRAMS / command[0], *command[1:]]).stdout


def main() -> int:
    """Set the scene, capture, send, show; 0 if every request went its way."""
    if os.geteuid() != 0:
        print("the demo makes network namespaces: run it as root (sudo make demo)", file=sys.stderr)
        return 2
    started = time.monotonic()
    with NamespaceFactory() as netns, tempfile.TemporaryDirectory(prefix="capture-demo-") as directory:
        Path(directory).chmod(0o755)
        pod, outside = netns.pod_pair("pod")
        start_app(pod, APP_PORT)
        start_app(pod, EXCLUDED_PORT, label="health")
        start_app(outside, SERVER_PORT, label="server")
        proxy = start_mitmdump(pod, Path(directory))
        heading("Two pods, joined by a veth pair")
        print(f"  pod      {pod.ipv4}  {pod.ipv6}  an app on port {APP_PORT} as uid {APP_UID};")
        print(f"                              mitmdump on {OUTBOUND_PORT} and {INBOUND_PORT} as uid {PROXY_UID}")
        print(f"  outside  {outside.ipv4}  {outside.ipv6}  a server on port {SERVER_PORT}")

        heading("Before: nothing is captured")
        everything = list(requests(pod, outside))
        right = [check(dataclasses.replace(everything[0], side=""), proxy)]
        try:
            install_capture(pod)
            heading("After: out and in through the proxy, and two ways past it")
            right += [check(request, proxy) for request in everything]
            show_rules(pod)
            heading("Why: what the rules do to four of these requests")
            right += [check_trace(request, pod) for request in everything[:4]]
        except (CommandError, FileNotFoundError, subprocess.TimeoutExpired) as error:
            print(f"\n{paint(f'The demo stopped: {error}', RED)}")
            return 1
    wrong = right.count(False)
    took = f"in {time.monotonic() - started:.1f} s"
    if wrong:
        heading(
            paint(f"{wrong} of {len(right)} checks failed: a request, or its trace, went the wrong way, {took}.", RED)
        )
        return 1
    heading(paint(f"All requests went the way they should, and the traces agree: {len(right)} checks, {took}.", GREEN))
    return 0


RED, GREEN, BOLD = "31", "32", "1"


def paint(text: str, colour: str) -> str:
    """Colour the text where a terminal shows it."""
    return f"\033[{colour}m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def heading(text: str) -> None:
    """Start a part of the story."""
    print(f"\n{paint(text, BOLD)}", flush=True)


def verdict(where: str, way: str, *, right: bool) -> bool:
    """Print one line of the result and return it."""
    mark = paint("ok   ", GREEN) if right else paint("WRONG", RED)
    print(f"  {mark} {where} {way}", flush=True)
    return right


if __name__ == "__main__":
    sys.exit(main())

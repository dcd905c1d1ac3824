"""Captures the machine that it runs on with ``capture host``; a script for a guest, which prints what happened as JSON.

``host_traffic.py CAPTURE``: the path of the program. The outside is a network namespace, the machine is the guest.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack

MACHINE, WORLD = "10.0.0.1", "10.0.0.2"
LINK = (
    "ip link add eth0 type veth peer name eth0 netns {pid}; ip address add 10.0.0.1/24 dev eth0; ip link set eth0 up;"
    " {outside} ip address add 10.0.0.2/24 dev eth0; {outside} ip link set eth0 up; ip route add default via 10.0.0.2"
)
SERVER = """import socket
server = socket.create_server(("0.0.0.0", {port})); print(flush=True)
while True:
    connection, _ = server.accept(); connection.sendall(b"{label}"); connection.close()
"""
CLIENT = "import socket; print(socket.create_connection(('{address}', {port}), 5).recv(99).decode())"


def user(uid: int) -> tuple[str, ...]:
    """Return what starts a program as a user, and as its group; port 22 is for root alone."""
    return ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")


def serve(started: ExitStack, port: int, label: str, *before: str) -> None:
    """Let a process that ``before`` starts answer connections to a port with a label."""
    code = SERVER.format(port=port, label=label)
    process = started.enter_context(subprocess.Popen([*before, sys.executable, "-c", code], stdout=subprocess.PIPE))
    started.callback(process.kill)
    assert process.stdout is not None
    process.stdout.readline()  # it listens


def ask(address: str, port: int, *before: str) -> str:
    """Return the label of who takes a connection of a process that ``before`` starts."""
    code = CLIENT.format(address=address, port=port)
    done = subprocess.run([*before, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr.strip().rpartition("\n")[2]


def answers(outside: list[str]) -> list[str]:
    """Return who takes connections from outside to the application and to SSH, and those of app and proxy."""
    inbound = [ask(MACHINE, port, *outside) for port in (8080, 22)]
    return inbound + [ask(WORLD, 80, *user(uid)) for uid in (1000, 1337)]


def capture(program: str, *arguments: str) -> int:
    """Run ``capture host`` and return its exit code."""
    return subprocess.run([program, "host", *arguments], stdout=sys.stderr, check=False).returncode


def main(program: str) -> None:
    """Capture the machine and release it."""
    with ExitStack() as started:
        # A namespace with a name would be evidence of a node.
        away = started.enter_context(subprocess.Popen(["unshare", "--net", "sleep", "600"]))
        started.callback(away.kill)  # and with it the link
        while os.stat(f"/proc/{away.pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
            time.sleep(0.01)
        outside = ["nsenter", f"--net=/proc/{away.pid}/ns/net"]
        for command in LINK.format(pid=away.pid, outside=" ".join(outside)).split(
            "; "
        ):  # busybox' shell has another ip
            subprocess.run(command.split(), check=True)
        serve(started, 22, "sshd")
        serve(started, 8080, "application", *user(1000))
        serve(started, 80, "world", *outside)
        codes = [capture(program, "apply", "--keep")]
        for port in (15001, 15006):
            serve(started, port, "proxy", *user(1337))
        codes += [capture(program, "apply", "--keep"), capture(program, "status")]
        captured = answers(outside)
        codes += [capture(program, "clean"), capture(program, "status")]
        json.dump({"codes": codes, "captured": captured, "released": answers(outside)}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])

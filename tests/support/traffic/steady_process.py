"""The two ends of steady traffic, each a process of its own, so that no test keeps them from their work.

python steady_process.py answer LABEL UID TRANSPARENT(0|1) PORT...
    answers each TCP connection to one of the ports, of either family, with the label
python steady_process.py connect PER_SECOND ADDRESS|PORT...
    makes so many new connections a second, to each destination in turn, and prints what answered, as JSON:
    {"ADDRESS|PORT": {"label": 120, "refused": 1}}; ends with SIGTERM
"""

import contextlib
import errno
import json
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

IP_TRANSPARENT, IPV6_TRANSPARENT, SOL_IPV6 = 19, 75, 41  # linux/in.h, linux/in6.h
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""For SO_LINGER: no connection lingers in TIME_WAIT, so that ports do not run out."""
TICK = 0.005
PATIENCE = 1.0
"""Seconds for a connection to be answered; a lost SYN is sent again after one second, so that it counts as lost."""
NAMES = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
}


# --- answering -----------------------------------------------------------------------------------


def answer(label: str, uid: int, *, transparent: bool, ports: list[int]) -> None:
    """Answer until killed."""
    selector = selectors.DefaultSelector()
    for port in ports:
        for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            selector.register(listening(family, address, port, transparent=transparent), selectors.EVENT_READ)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    while True:
        for key, _ in selector.select():
            listener = key.fileobj
            assert isinstance(listener, socket.socket)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                while True:
                    connection, _ = listener.accept()
                    connection.send(label.encode())
                    connection.close()


def listening(family: int, address: str, port: int, *, transparent: bool) -> socket.socket:
    """Return a listening socket of one family."""
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if transparent and family == socket.AF_INET6:
        made.setsockopt(SOL_IPV6, IPV6_TRANSPARENT, 1)
    elif transparent:
        made.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    made.bind((address, port))
    made.listen(4096)
    return made


# --- connecting ----------------------------------------------------------------------------------


@dataclass
class Attempt:
    """A connection that is being made."""

    connection: socket.socket
    destination: str
    since: float


@dataclass
class Connector:
    """Makes connections, and counts how each one ended."""

    destinations: list[str]
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    counts: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    under_way: dict[int, Attempt] = field(default_factory=dict)
    made: int = 0

    def begin(self) -> None:
        """Begin one more connection."""
        destination = self.destinations[self.made % len(self.destinations)]
        self.made += 1
        address, _, port = destination.partition("|")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        status = connection.connect_ex((address, int(port)))
        self.under_way[connection.fileno()] = attempt = Attempt(connection, destination, time.monotonic())
        if status not in (0, errno.EINPROGRESS):
            self.end(attempt, NAMES.get(status) or os.strerror(status))
            return
        self.selector.register(connection, selectors.EVENT_READ, attempt)

    def look(self, timeout: float) -> None:
        """Take note of what has been answered."""
        for key, _ in self.selector.select(timeout):
            attempt: Attempt = key.data
            try:
                explicit = attempt.connection.recv(100).decode() or "closed"
            except OSError as error:
                explicit = NAMES.get(error.errno or 0) or os.strerror(error.errno or 0)
            self.selector.unregister(attempt.connection)
            self.end(attempt, explicit)

    def give_up(self, before: float) -> None:
        """Stop waiting for connections that were begun before a time."""
        for attempt in [attempt for attempt in self.under_way.values() if attempt.since < before]:
            self.selector.unregister(attempt.connection)
            self.end(attempt, "timed out")

    def end(self, attempt: Attempt, how: str) -> None:
        """Count a connection that has ended, and forget it."""
        self.counts[attempt.destination][how] += 1
        del self.under_way[attempt.connection.fileno()]
        attempt.connection.close()


def connect(per_second: int, destinations: list[str]) -> None:
    """Make connections until SIGTERM; then wait for those in flight, and print the counts."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    connector = Connector(destinations)
    began = time.monotonic()
    report("ready")
    while not stopped:
        due = int((time.monotonic() - began) * per_second)
        for _ in range(due - connector.made):
            connector.begin()
        connector.look(TICK)
        connector.give_up(time.monotonic() - PATIENCE)
    while connector.under_way:
        connector.look(TICK)
        connector.give_up(time.monotonic() - PATIENCE)
    report(json.dumps(connector.counts))


def report(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Be the end that the arguments name."""
    role, *arguments = sys.argv[1:]
    if role == "answer":
        label, uid, transparent, *ports = arguments
        answer(label, int(uid), transparent=transparent == "1", ports=[int(port) for port in ports])
    else:
        connect(int(arguments[0]), arguments[1:])


if __name__ == "__main__":
    main()

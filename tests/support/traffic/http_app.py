"""A tiny application: `python http_app.py LABEL PORT...` answers each GET with what it saw, as JSON.

It listens on every address of both families.
"""

import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

LABEL, *PORTS = sys.argv[1:]


class Application(BaseHTTPRequestHandler):
    """Answers with the label, the two ends of the connection, and the headers."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body at once: a body of its own waits 40 ms for the head's acknowledgement

    def do_GET(self) -> None:
        local = self.connection.getsockname()
        seen = {
            "label": LABEL,
            "peer": self.client_address[:2],
            "local": local[:2],
            "path": self.path,
            "headers": {name.lower(): self.headers.get_all(name) for name in self.headers},
        }
        body = json.dumps(seen).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name http.server gives it
        """Be quiet: the proxy's log is the one that counts."""


class Server(ThreadingHTTPServer):
    """One family, and no name lookup of its own address, which would stall in a pod without DNS."""

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        TCPServer.server_bind(self)


class Server6(Server):
    address_family = socket.AF_INET6


if __name__ == "__main__":
    servers = [
        make((address, int(port)), Application)
        for port in PORTS
        for make, address in ((Server, "0.0.0.0"), (Server6, "::"))
    ]
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()

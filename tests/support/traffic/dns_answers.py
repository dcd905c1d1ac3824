"""Answers queries of names by UDP and TCP, as Istio's agent at port 15053 of loopback."""

import socketserver
import struct
import threading

ADDRESS = bytes([10, 123, 45, 67])


def answer(query: bytes) -> bytes:
    """Return the answer with one address (RFC 1035, 4.1); a question for another type of record gets none."""
    end = query.index(b"\0", 12) + 5
    is_address = query[end - 4 : end - 2] == b"\0\1"
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 5, len(ADDRESS)) + ADDRESS if is_address else b""
    return query[:2] + b"\x85\x80" + struct.pack("!HHHH", 1, int(is_address), 0, 0) + query[12:end] + record


class Udp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        query, sock = self.request
        sock.sendto(answer(query), self.client_address)


class Tcp(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        (length,) = struct.unpack("!H", self.rfile.read(2))
        reply = answer(self.rfile.read(length))
        self.wfile.write(struct.pack("!H", len(reply)) + reply)


if __name__ == "__main__":
    tcp = socketserver.ThreadingTCPServer(("127.0.0.1", 15053), Tcp)
    threading.Thread(target=tcp.serve_forever, daemon=True).start()
    socketserver.ThreadingUDPServer(("127.0.0.1", 15053), Udp).serve_forever()

"""Loaded by mitmdump: marks each request with the side it was captured on, and prints one line of JSON for it.

On to the app it goes from 127.0.0.6 or ::6, as Envoy does: what the proxy's user sends to the pod's own address
from anywhere else is captured once more.
"""

from __future__ import annotations

import ipaddress
import json
import os

from mitmproxy import http
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

HEADER = os.environ["CAPTURE_PROXY_HEADER"]
SIDES = {int(os.environ["CAPTURE_OUTBOUND_PORT"]): "outbound", int(os.environ["CAPTURE_INBOUND_PORT"]): "inbound"}
PASSTHROUGH_SOURCES = {4: "127.0.0.6", 6: "::6"}


def server_connect(data: ServerConnectionHookData) -> None:
    """Choose the address from which the connection to the app is made."""
    if data.server.address and SIDES.get(data.client.proxy_mode.listen_port() or 0) == "inbound":
        version = ipaddress.ip_address(data.server.address[0]).version
        data.server.sockname = (PASSTHROUGH_SOURCES[version], 0)


def request(flow: http.HTTPFlow) -> None:
    """Add the header, and say where the client wanted to go.

    That is SO_ORIGINAL_DST, which mitmproxy calls the server's address.
    """
    port = flow.client_conn.proxy_mode.listen_port()
    destination = flow.server_conn.address
    if port is None or destination is None:
        raise ValueError(f"not a captured connection: {flow.client_conn}")
    flow.request.headers.add(HEADER, SIDES[port])
    seen = {"side": SIDES[port], "client": flow.client_conn.peername[:2], "destination": destination[:2]}
    print(json.dumps(seen), flush=True)  # noqa: T201  # stdout is this proxy's flow log

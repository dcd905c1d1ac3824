"""Loaded by mitmdump: marks each request with the side it was captured on, and prints one line of JSON for it."""

from __future__ import annotations

import json
import os

from mitmproxy import http

HEADER = os.environ["CAPTURE_PROXY_HEADER"]
SIDES = {int(os.environ["CAPTURE_OUTBOUND_PORT"]): "outbound", int(os.environ["CAPTURE_INBOUND_PORT"]): "inbound"}


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

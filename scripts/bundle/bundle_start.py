"""Starts one of the programs inside the bundle and returns its exit status."""

from __future__ import annotations

import os
import sys

if not hasattr(os, "setns"):  # before Python 3.12; the interpreter of the bundle brings it
    os.__dict__["setns"] = __import__("bundle_calls").setns


def run(module: str) -> int:
    """Call the ``main`` of a module as a console script does, and flush what it printed."""
    try:
        status = __import__(module, fromlist=["main"]).main()
    except SystemExit as end:
        status = end.code
    if status is None:
        status = 0
    elif not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                status = status or 1
    return status

"""The answers of a listener to a client, and the ends of an attempt to connect."""

from __future__ import annotations

import dataclasses
import enum
import errno
import json


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a port."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer of a listener about a connection that reached it."""

    label: str
    """Which listener it was."""
    port: int
    """The port on which it listens."""
    local: Endpoint
    """The destination as the listener saw it: after NAT; the original one under TPROXY."""
    original: Endpoint | None
    """SO_ORIGINAL_DST: the destination before NAT. None for UDP, and where nothing tracked the connection."""
    peer: Endpoint
    """The source as the listener saw it."""

    @property
    def redirected(self) -> bool:
        """Return whether the destination was changed on the way."""
        return self.original is not None and self.original != self.local

    @classmethod
    def decode(cls, text: bytes) -> Answer:
        """Return the answer in what a listener sent; the inverse of ``encode``."""
        fields = json.loads(text)
        return cls(
            label=fields["label"],
            port=fields["port"],
            local=Endpoint(*fields["local"]),
            original=Endpoint(*fields["original"]) if fields["original"] else None,
            peer=Endpoint(*fields["peer"]),
        )

    def encode(self) -> bytes:
        """Return the answer as a listener sends it."""

        def pair(endpoint: Endpoint | None) -> list[object] | None:
            return [endpoint.address, endpoint.port] if endpoint else None

        fields = {
            "label": self.label,
            "port": self.port,
            "local": pair(self.local),
            "original": pair(self.original),
            "peer": pair(self.peer),
        }
        return json.dumps(fields).encode()


class Kind(enum.StrEnum):
    """How an attempt to connect ended."""

    ANSWERED = "answered"
    """One of our listeners answered."""
    SILENT = "silent"
    """TCP: connected, but none of our listeners answered: another program listens there."""
    REFUSED = "refused"
    """No process listens: a reset or an ICMP port unreachable."""
    RESET = "reset"
    """Connected, then reset."""
    TIMED_OUT = "timed out"
    """Nothing came back; so it looks when packets are dropped."""
    UNREACHABLE = "unreachable"
    """No route, or an ICMP host unreachable."""
    FORBIDDEN = "forbidden"
    """The kernel refused to send (EPERM, EACCES)."""


KINDS = {
    errno.ECONNREFUSED: Kind.REFUSED,
    errno.ECONNRESET: Kind.RESET,
    errno.ETIMEDOUT: Kind.TIMED_OUT,
    errno.EHOSTUNREACH: Kind.UNREACHABLE,
    errno.ENETUNREACH: Kind.UNREACHABLE,
    errno.EADDRNOTAVAIL: Kind.UNREACHABLE,  # no source address of that family
    errno.EPERM: Kind.FORBIDDEN,
    errno.EACCES: Kind.FORBIDDEN,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt to connect ended, and the answer of the listener if there was one."""

    kind: Kind
    answer: Answer | None = None

    @property
    def label(self) -> str:
        """The label of the listener that answered, or "" if none did."""
        return self.answer.label if self.answer else ""

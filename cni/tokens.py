"""When a token of a service account was issued, and when it ends."""

from __future__ import annotations

import binascii

from capture.model.json_text import JsonError, decode_json
from capture.model.values import Value

LOW_LIFETIME_SHARE = 0.1
"""Part of a token's life that is left when something is wrong with its renewal: kubelet renews at 0.2."""


class Token(Value):
    """The times in a token, seconds since the epoch; 0 if it has none."""

    issued: float
    expires: float

    def seconds_left(self, now: float) -> float:
        """Return the seconds until it ends; infinite if it never does."""
        return self.expires - now if self.expires else float("inf")

    def is_nearly_expired(self, now: float) -> bool:
        """Return whether less is left than kubelet ever lets it come to."""
        return bool(self.expires) and self.seconds_left(now) < LOW_LIFETIME_SHARE * (self.expires - self.issued)


def token_in(path: str) -> Token:
    """Return the times of a token in a file. Raises OSError."""
    with open(path, "rb") as file:
        return times_of(file.read())


def times_of(token: bytes) -> Token:
    """Return the times in a JSON Web Token (RFC 7519, "exp" and "iat"); other texts have none."""
    parts = token.strip().split(b".")
    if len(parts) != 3:
        return Token(0.0, 0.0)
    padded = parts[1].replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-len(parts[1]) % 4)
    try:
        claims = decode_json(binascii.a2b_base64(padded).decode())
        return Token(float(claims.get("iat", 0)), float(claims.get("exp", 0)))
    except (ValueError, JsonError, AttributeError, TypeError, OverflowError):
        return Token(0.0, 0.0)

"""Netlink, the little of it that the hot path needs; it knows no rule model.

Import the modules themselves; the package imports none of them, because each costs the cold start.
Every error is one of ``capture.errors`` and names what was tried: PrivilegeError for EPERM, UnsupportedError where the
kernel lacks the protocol or family, KernelError with ``errno`` for the rest; MalformedMessageError names the bytes.
"""

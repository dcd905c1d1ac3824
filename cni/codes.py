"""Error codes of our own: the specification leaves those from 100 on to plugins (SPEC.md, "Errors").

``docs/errors/`` has a page for each, which says what it means and what to do.
"""

from __future__ import annotations

VALUE_REFUSED = 100
"""Something that the pod says cannot be used."""
POD_UNKNOWN = 101
"""No source can say anything about the pod."""
BAD_KUBECONFIG = 102
"""The kubeconfig cannot be read or used."""
NOT_TRUSTED = 103
"""The API server's certificate is not one that we trust."""
UNAUTHORIZED = 104
"""The API server does not accept our credentials."""
FORBIDDEN = 105
"""The API server knows us, and lets us not read pods."""
POD_NOT_FOUND = 106
"""The API server does not have the pod, until the deadline."""
BAD_ANSWER = 107
"""The API server, or what answers in its place, says something that is no pod."""
NOT_APPLIED = 110
"""The rules could not be written, or are not there after they were written."""
CANNOT_CAPTURE = 111
"""This kernel or host cannot do it, or we lack the privilege."""
HOST_NAMESPACE = 112
"""The namespace is the host's own."""
DRIFT = 120
"""CHECK: the namespace is not as it was left."""
DEFECT = 999
"""A defect of the plugin."""

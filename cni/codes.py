"""Error codes of our own: the specification leaves those from 100 on to plugins (SPEC.md, "Errors").

``docs/errors/`` has a page for each: what it means and what to do.
"""

from __future__ import annotations

VALUE_REFUSED = 100  # a value of the pod cannot be used
POD_UNKNOWN = 101  # no source knows the pod
BAD_KUBECONFIG = 102  # the kubeconfig cannot be read or used
NOT_TRUSTED = 103  # the API server's certificate is not one that we trust
UNAUTHORIZED = 104  # the API server does not accept our credentials
FORBIDDEN = 105  # the API server knows us, and does not let us read pods
POD_NOT_FOUND = 106  # the API server does not have the pod, until the deadline
BAD_ANSWER = 107  # the API server, or what answers in its place, sends something that is no pod
NOT_APPLIED = 110  # the rules could not be written, or are not there after they were written
CANNOT_CAPTURE = 111  # this kernel or host cannot do it, or we lack the privilege
HOST_NAMESPACE = 112  # the namespace is the host's own
DRIFT = 120  # CHECK: the namespace is not as it was left
DEFECT = 999  # a defect of the plugin

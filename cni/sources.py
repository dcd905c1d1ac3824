"""Whom to ask about a pod, and in what order; and what follows for the pod.

Two facts make the order. What the runtime hands over is free, and enough to see that a pod has no part in the mesh:
such pods start whatever the API server does. About a pod that has a part, the API server knows more: labels, and the
proxy's user and environment. So a source that does not know all has the last word only if it is the last one asked,
or if what the others could add would not change its answer.
"""

from __future__ import annotations

from cni.codes import POD_UNKNOWN
from cni.conf import AGENT, ANNOTATIONS_CAPABILITY, RUNTIME
from cni.decision import REFUSES_INJECTION, first_line
from cni.pod import from_annotations
from cni.protocol import CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.settings.pod import Pod
    from cni.conf import Configuration
    from cni.log import Log
    from cni.pod import Identity

HOW_TO_BE_TOLD = (
    f'Let the entry of the plugin say "capabilities": {{"{ANNOTATIONS_CAPABILITY}": true}}, which containerd and CRI-O'
    " answer with the annotations; for other runtimes name a 'kubeconfig' and have 'kubernetes' in 'pod_sources'."
)


def learn(identity: Identity, configuration: Configuration, journal: Log) -> tuple[Pod, str]:
    """Return what is known about a pod, and why it is left alone; "" if it is to be captured.

    Raises ``CniError`` if nobody can say, and ConfigurationError for what the pod says and nobody can read.
    """
    sources = configuration.pod_sources
    for source in sources:
        with journal.step(source):
            pod = _ask(source, identity, configuration, journal)
        if pod is None:
            continue
        line = first_line(pod)
        # A label can overrule an annotation, and the runtime hands over no labels.
        is_certain = source != RUNTIME or (line is not None and line is not REFUSES_INJECTION)
        if is_certain or source == sources[-1]:
            return pod, line.reason if line else ""
    raise CniError(POD_UNKNOWN, f"pod {identity}: the runtime hands over no annotations of the pod", HOW_TO_BE_TOLD)


def _ask(source: str, identity: Identity, configuration: Configuration, journal: Log) -> Pod | None:
    """Return what a source knows about the pod; None if it knows nothing."""
    if source == RUNTIME:
        if configuration.annotations is None:
            return None
        return from_annotations(identity, configuration.annotations)
    if source == AGENT:
        from cni import agent_socket
        from cni.pod_object import from_object

        known = agent_socket.pod(configuration.agent_socket, identity)
        return from_object(identity, known) if known else None
    from cni import kubernetes  # OpenSSL costs 5 ms
    from cni.pod_object import from_object

    kubeconfig = kubernetes.read_kubeconfig(configuration.kubeconfig)
    if kubeconfig.skips_verification:
        journal.warn(
            "the API server's certificate is not verified (insecure-skip-tls-verify)", kubeconfig=kubeconfig.path
        )
    return from_object(identity, kubernetes.read_pod(kubeconfig, identity))

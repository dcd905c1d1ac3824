"""The order of the sources of facts about a pod, and what they decide for the pod.

Two facts make the order. What the runtime hands over is free, and enough to see that a pod was not injected: such
pods start whatever the API server does. About any other pod the API server knows more: labels, containers, and the
proxy's user and environment. So the runtime has the last word only if it is the last source.
"""

from __future__ import annotations

from capture.errors import ConfigurationError
from cni.codes import POD_UNKNOWN
from cni.conf import AGENT, ANNOTATIONS_CAPABILITY, RUNTIME, Configuration
from cni.decision import Exemption, first_exemption, warnings_about
from cni.pod import STATUS_ANNOTATION, Identity, pod_from_annotations
from cni.protocol import CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.settings.pod import Pod
    from cni.log import PluginLog

NOTHING_LEARNED = {
    RUNTIME: "the runtime hands over no annotations of the pod",
    AGENT: "the node's agent does not answer, or does not know the pod",
}
REMEDY_BY_SOURCE = {
    RUNTIME: (
        f'Add "capabilities": {{"{ANNOTATIONS_CAPABILITY}": true}} to the plugin\'s entry, as `capture cni install`'
        " does: containerd and CRI-O then hand them over. For other runtimes name a 'kubeconfig', and 'kubernetes' in"
        " 'pod_sources'."
    ),
    AGENT: "Look on the node whether the agent runs: `capture node status`.",
}


def find_pod(identity: Identity, configuration: Configuration, log: PluginLog) -> tuple[Pod, Exemption | None]:
    """Return what is known about a pod, and why it is left alone; None if it is to be captured.

    Raises ``CniError`` if no source knows the pod, and ConfigurationError for a status that cannot be read.
    """
    sources = configuration.pod_sources
    for source in sources:
        is_last = source == sources[-1]
        with log.step(source):
            pod = _pod_from(source, identity, configuration, log, is_last=is_last)
        if pod is None:
            continue
        # A pod without this annotation was not injected, with any labels and containers.
        if source != RUNTIME or is_last or STATUS_ANNOTATION not in pod.annotations:
            exemption = first_exemption(pod)
            for warning in warnings_about(pod, exemption):
                log.warn(warning)
            return pod, exemption
    silent = [NOTHING_LEARNED[source] for source in sources if source in NOTHING_LEARNED]
    remedies = [REMEDY_BY_SOURCE[source] for source in sources if source in REMEDY_BY_SOURCE]
    raise CniError(POD_UNKNOWN, f"pod {identity}: {'; '.join(silent)}", " ".join(remedies))


def _pod_from(
    source: str, identity: Identity, configuration: Configuration, log: PluginLog, *, is_last: bool
) -> Pod | None:
    """Return what a source knows about the pod; None if it knows nothing, or nothing that can be read."""
    if source == RUNTIME:
        if configuration.annotations is None:
            return None
        try:
            return pod_from_annotations(identity, configuration.annotations)
        except ConfigurationError as error:
            if is_last:
                raise
            log.info("the next source decides", reason=error.message)
            return None
    if source == AGENT:
        from cni import agent_socket
        from cni.pod_object import pod_from_object

        known = agent_socket.request_pod(configuration.agent_socket, identity)
        return pod_from_object(identity, known) if known else None
    from cni import kubernetes  # OpenSSL costs 5 ms
    from cni.pod_object import pod_from_object

    kubeconfig = kubernetes.read_kubeconfig(configuration.kubeconfig)
    if kubeconfig.skips_verification:
        log.warn("the API server's certificate is not verified (insecure-skip-tls-verify)", kubeconfig=kubeconfig.path)
    return pod_from_object(identity, kubernetes.read_pod(kubeconfig, identity))

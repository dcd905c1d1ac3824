"""The plugin's ADD, CHECK and STATUS; DEL and GC are in ``cni.cleanup``.

    ADD ──> configuration ──> which pod ──> what is known about it ──> left alone, and why
                                                    └──> settings ──> rules in its namespace ──> record
    CHECK ─> record (or the same way as ADD) ──> compared with what is live
    STATUS ─> could ADD work now?

A request that is not understood fails, so that no pod runs without the capture that it should have,
except where a node has no source at all (``conf.lacks_source``).
"""

from __future__ import annotations

import os
import time

from capture.errors import (
    CaptureError,
    ConfigurationError,
    HostNamespaceError,
    NamespaceError,
    PrivilegeError,
    UnsupportedError,
)
from capture.model.addresses import Network, parse_network
from capture.settings.options import PROXY_GID, PROXY_UID
from capture.state import attachments
from cni import conf, protocol
from cni.codes import CANNOT_CAPTURE, DRIFT, HOST_NAMESPACE, NOT_APPLIED, VALUE_REFUSED
from cni.conf import ANNOTATIONS_CAPABILITY, KUBERNETES, RUNTIME, Configuration
from cni.decision import NO_POD, Exemption, exemption_by_name
from cni.log import PluginLog, request_log, timestamp
from cni.pod import Identity, identity_of
from cni.protocol import CniError, Request, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from capture.operations.applying import Applied
    from capture.operations.results import Verified
    from capture.settings.config import Host
    from capture.settings.settings import Settings

STATUS_TIMEOUT = 3.0
"""Seconds for the API server to answer when STATUS depends on it."""
LOGGED_STATUS_TIMEOUT = 1.0
"""Seconds for the API server to answer when STATUS only logs its state: a runtime calls STATUS every few seconds."""

UNKNOWN_ENVIRONMENT = (
    "part of the proxy's environment: ISTIO_META_DNS_CAPTURE and ISTIO_DUAL_STACK may also come from"
    " meshConfig.defaultConfig.proxyMetadata, or from a reference"
)

NO_SOURCE = (
    "the runtime hands over no annotations of pods, and the network configuration names no other source; name a"
    " kubeconfig, or install the node's agent"
)

IDS_OF_THE_PROXY = (PROXY_UID.name, PROXY_GID.name)
"""Options that only the pod's namespace can refuse: with ``hostUsers: false`` it has users of its own."""


def handle(request: Request) -> None:
    """Do ADD, CHECK or STATUS. Raises ``CniError``; what fails after the configuration was read is in the log."""
    configuration = conf.parse_configuration(request.configuration)
    log = request_log(request)
    try:
        try:
            {"ADD": _add, "CHECK": _check, "STATUS": _status}[request.command](request, configuration, log)
        except CaptureError as error:
            raise _as_cni_error(error, request) from None
        except OSError as error:
            about = f"{error.filename}: " if error.filename else ""
            raise CniError(protocol.IO_FAILURE, f"{about}{error.strerror}") from None
    except CniError as error:
        log.error(error.message, code=error.code, details=error.details)
        if request.command == "ADD":
            _save_decision(request, attachments.REFUSED, error.message)
        raise


HANDLERS: dict[str, Callable[[Request], None]] = dict.fromkeys(("ADD", "CHECK", "STATUS"), handle)


# --- ADD -------------------------------------------------------------------------------------------------------


def _add(request: Request, configuration: Configuration, log: PluginLog) -> None:
    desired = _desired_settings(request, configuration, log)
    if isinstance(desired, Exemption):
        log.info("left alone", reason=desired.reason)
        _save_decision(request, attachments.LEFT_ALONE, desired.reason, desired.kind)
        return
    _warn_of_full_table(log)
    with log.step("apply"):
        applied = _apply(request, desired)
    for warning in applied.warnings:
        log.warn(warning)
    for note in applied.notes:
        log.info(note)
    log.info(
        "captured",
        profile=applied.config.profile,
        profile_from=desired.origin(conf.CAPTURE_OPTIONS["profile"]),
        families=applied.config.families,
        families_from=applied.config.families_decided_by,
        backend=applied.choice.backend,
        driver=applied.choice.driver,
        changed=applied.changed,
        **({} if desired.knows_proxy_environment else {"unknown": UNKNOWN_ENVIRONMENT}),
    )
    _save_decision(request, attachments.CAPTURED, "")


def _save_decision(request: Request, decision: str, reason: str, kind: str = "") -> None:
    """Keep the decision about the pod, for ``capture why``; not for a sandbox that is no pod."""
    name = request.arguments.get("K8S_POD_NAME", "")
    if not name:
        return
    namespace = request.arguments.get("K8S_POD_NAMESPACE", "")
    try:
        inode = os.stat(request.namespace).st_ino
    except OSError:
        inode = 0
    attachments.save_decision(
        attachments.RecordedDecision(
            decision=decision,
            reason=reason,
            time=timestamp(time.time_ns()),
            pod=f"{namespace}/{name}" if namespace else name,
            container=request.container_id,
            interface=request.interface,
            network=request.network,
            inode=inode,
            namespace=request.namespace,
            kind=kind,
        )
    )


def _desired_settings(request: Request, configuration: Configuration, log: PluginLog) -> Settings | Exemption:
    identity = identity_of(request.arguments)
    if identity is None and configuration.standalone is not None:
        name = request.arguments.get("K8S_POD_NAME") or request.container_id
        identity = Identity("standalone", name)
        configuration = configuration.replace(annotations=configuration.standalone, pod_sources=(RUNTIME,))
    if identity is None:
        return NO_POD
    exemption = exemption_by_name(identity, configuration)
    if exemption is not None:
        return exemption
    if configuration.annotations is None and conf.lacks_source(request.configuration):
        # Such a runtime never hands them over: failing would stop every pod of the node, in the mesh or not.
        log.error(f"pod {identity} is left alone: {NO_SOURCE}")
        return Exemption(NO_SOURCE)
    from capture.settings.pod import pod_settings  # most pods of a node may have no part in the mesh
    from cni.sources import find_pod

    try:
        pod, exemption = find_pod(identity, configuration, log)
        if exemption is not None:
            return exemption
        settings = pod_settings(pod, configuration.settings)
    except ConfigurationError as error:
        raise CniError(
            VALUE_REFUSED,
            f"pod {identity}: {error.message}",
            "Correct it where the pod is made (its Deployment or the like), and the pod starts.",
        ) from None
    for warning in pod.escapes:
        log.warn(warning)
    return settings


def _warn_of_full_table(log: PluginLog) -> None:
    """Log that the node's table of connections is nearly full: once it is, the node drops the pod's new connections."""
    from capture.system.netns import read_connection_counts

    tracked, most = read_connection_counts()
    if tracked <= most // 2:
        return
    from capture.analysis.pod_causes import is_nearly_full  # most nodes track few connections

    if is_nearly_full(tracked, most):
        log.warn(
            f"the node's conntrack table is nearly full: {tracked} of {most} connections."
            " Connections of the pod may fail: raise net.netfilter.nf_conntrack_max on the node"
        )


def _apply(request: Request, settings: Settings) -> Applied:
    from capture.operations.applying import apply_here
    from capture.system.netns import InNamespace, namespace_id, own_namespace, refuse_host

    host = _pod_host(request)
    own = own_namespace()
    with InNamespace(request.namespace):
        if os.path.samestat(own, own_namespace()):
            raise HostNamespaceError
        refuse_host(allowed=False)
        # Before the rules: a plugin that is killed while writing them leaves nothing that DEL does not find.
        name = attachments.attachment_name(request.network, request.container_id, request.interface)
        attachments.save_namespace(name, namespace_id())
        wait_for_loopback()
        return apply_here(settings, host)


IPV6_ADDRESSES_FILE = "/proc/thread-self/net/if_inet6"
IPV6_LOOPBACK_LINE = b"00000000000000000000000000000001 "
"""``::1``, which the kernel puts on ``lo`` as that comes up."""
LOOPBACK_TIMEOUT = 1.0
"""Seconds to wait for ``lo``; they are lost where it is down, and no plugin sets it up."""
LOOPBACK_PAUSE = 0.01
LISTING_SECONDS = 0.05
"""Seconds that the plugin "loopback" may take from setting ``lo`` up to having seen its addresses."""


def wait_for_loopback() -> None:
    """Return when ``lo`` of the namespace we are in is up, or has been down for long enough.

    containerd starts the plugin "loopback" along with the plugins of the network, in no order. That plugin sets ``lo``
    up, and refuses it if it has another address than those of loopback, such as our ``::6`` (plugins/main/loopback of
    containernetworking). We mostly come much later; where ``lo`` is down, it has yet to come, or there is none.
    """
    if _is_lo_up():
        return
    end = time.monotonic() + LOOPBACK_TIMEOUT
    while time.monotonic() < end:
        time.sleep(LOOPBACK_PAUSE)
        if _is_lo_up():
            time.sleep(LISTING_SECONDS)
            return


def _is_lo_up() -> bool:
    """Return whether ``lo`` is up: in nearly every pod it has ``::1`` then, which a look at a file shows."""
    try:
        with open(IPV6_ADDRESSES_FILE, "rb", buffering=0) as listed:
            if IPV6_LOOPBACK_LINE in listed.read():
                return True
    except FileNotFoundError:  # no IPv6: no address that could be in the way
        return True
    from capture.state.routes import is_lo_up

    return is_lo_up()  # where ``disable_ipv6`` is set, it has no address of IPv6 when up


def _pod_host(request: Request) -> Host:
    """Return the pod as seen from outside, with the addresses that it is to have."""
    from capture.settings.families import global_addresses
    from capture.system.pod_host import PodFromOutside

    addresses = _addresses_of(request)

    class Attached(PodFromOutside):
        """The pod, which may not have all of its addresses yet."""

        def pod_addresses(self) -> tuple[Network, ...]:
            return addresses + super().pod_addresses()

        def primary_address(self) -> Network | None:
            return next(iter(global_addresses(addresses)), None) or super().primary_address()

    return Attached()


def _addresses_of(request: Request) -> tuple[Network, ...]:
    """Return the addresses that the plugins before us gave the pod (SPEC, "ADD Success")."""
    entries = (request.previous_result or {}).get("ips") or []
    try:
        return tuple(parse_network(entry["address"]) for entry in entries)
    except (TypeError, KeyError, ValueError, AttributeError):
        raise CniError(
            protocol.INVALID_CONFIGURATION,
            f"prevResult: 'ips': invalid value {shown(entries)}: "
            "expected a list of objects with an 'address' like 10.1.2.3/24",
            "Look at the plugin before this one in the network configuration list: its result is wrong.",
        ) from None


# --- CHECK -----------------------------------------------------------------------------------------------------


def _check(request: Request, configuration: Configuration, log: PluginLog) -> None:
    from capture.operations.comparison import verify_recorded
    from capture.state import record
    from capture.system.netns import InNamespace

    with InNamespace(request.namespace), log.step("verify"):
        verified = verify_recorded()
        record_fault = "" if verified else record.why_unusable()
    is_recorded = verified is not None
    if record_fault:
        log.warn(record_fault)
    if verified is None:
        desired = _desired_settings(request, configuration, log)
        if isinstance(desired, Exemption):
            log.info("left alone", reason=desired.reason)
            return
        from capture.operations.comparison import verify

        with log.step("verify"):  # with what ADD would do now: what it did is not recorded
            verified = verify(desired, request.namespace, _pod_host(request))
    if not verified.holds:
        raise _drift_error(verified, request.namespace)
    for note in verified.notes:
        log.info(note)
    if not verified.is_certain:
        from capture.report.verified_text import doubt_lines  # where there is a warning to log

        for doubt in doubt_lines(verified):
            log.warn("not judged", what=doubt)
    log.info("unchanged", recorded=is_recorded)


def _drift_error(verified: Verified, namespace: str) -> CniError:
    from capture.report.verified_text import difference_lines

    sentences = list(difference_lines(verified))
    repair = "ADD again" + f" or `capture apply --recorded --netns {namespace}`" * verified.from_record
    more = f" (and {len(sentences) - 1} more)" if len(sentences) > 1 else ""
    details = f"Run `capture verify --netns {namespace}` for details"
    return CniError(
        DRIFT,
        f"the namespace is not as it was left: {sentences[0]}{more}",
        "\n".join((*sentences, f"{details}; recreate the pod, or run {repair}, to repair.")),
    )


# --- STATUS ----------------------------------------------------------------------------------------------------


def _status(request: Request, configuration: Configuration, log: PluginLog) -> None:
    """Answer for this node: kernel, privileges and configuration.

    An error here stops every pod of the node, in the mesh or not, and gets the node a taint. So the API server counts
    only where no pod starts without it; elsewhere its state goes to the log.
    """
    from capture.backends import detect
    from capture.operations.arguments import request_of
    from capture.system.capabilities import missing_capabilities

    if not os.path.exists("/proc/self/status"):
        raise CniError(protocol.NOT_AVAILABLE, "/proc is not mounted here", "Mount it: `mount -t proc proc /proc`.")
    lacking = missing_capabilities("NET_ADMIN", "SYS_ADMIN")
    if lacking:
        raise CniError(protocol.NOT_AVAILABLE, f"missing capability {' and '.join(lacking)}", "Run it as root.")
    if configuration.pod_sources == (RUNTIME,) and not conf.requests_annotations(request.configuration):
        raise CniError(
            protocol.NOT_AVAILABLE,
            f"no source of facts about pods: the entry does not request {ANNOTATIONS_CAPABILITY}",
            f'Add "capabilities": {{"{ANNOTATIONS_CAPABILITY}": true}} to the plugin\'s entry, or a kubeconfig.',
        )
    try:
        detect.detect(request_of(configuration.settings))
    except CaptureError as error:
        raise CniError(protocol.NOT_AVAILABLE, error.message, error.remedy) from None
    is_needed = configuration.pod_sources == (KUBERNETES,)
    if not is_needed and not (KUBERNETES in configuration.pod_sources and log.path):
        return
    from cni import kubernetes

    try:
        kubeconfig = kubernetes.read_kubeconfig(configuration.kubeconfig)
        kubernetes.check_server(kubeconfig, STATUS_TIMEOUT if is_needed else LOGGED_STATUS_TIMEOUT)
        log.debug("the API server answers")
    except CniError as error:
        if is_needed:
            raise CniError(protocol.NOT_AVAILABLE_LIMITED, error.message, error.details) from None
        message = f"pods of the mesh may not start now: {error.message}"
        log.warn(message, api_server=error.code, details=error.details)


# --- errors --------------------------------------------------------------------------------------------------


def _as_cni_error(error: CaptureError, request: Request) -> CniError:
    if isinstance(error, ConfigurationError) and error.option in IDS_OF_THE_PROXY:
        pod = f"{request.arguments.get('K8S_POD_NAMESPACE')}/{request.arguments.get('K8S_POD_NAME')}"
        remedy = "Give istio-proxy a runAsUser and runAsGroup that the pod's user namespace has."
        return CniError(VALUE_REFUSED, f"pod {pod}: {error.message}", remedy)
    if isinstance(error, ConfigurationError):  # other values of the pod have been refused before
        return CniError(protocol.INVALID_CONFIGURATION, f"network configuration: {error.message}", error.remedy)
    if isinstance(error, HostNamespaceError):
        return CniError(
            HOST_NAMESPACE,
            f"refused: CNI_NETNS={request.namespace} is the node's own network namespace",
            "Capturing it cuts the node off. Pods with hostNetwork get no CNI plugin: find the program that called it.",
        )
    if isinstance(error, NamespaceError):
        code = protocol.UNKNOWN_CONTAINER if request.command == "CHECK" else protocol.INVALID_ENVIRONMENT
        return CniError(code, f"CNI_NETNS: {error.message}", error.remedy)
    if isinstance(error, PrivilegeError | UnsupportedError):
        return CniError(CANNOT_CAPTURE, error.message, error.remedy)
    return CniError(NOT_APPLIED, error.message, error.remedy)

"""``verify --proxy-admin``: a real Envoy's listeners against the capture."""

import json

import pytest

from pytest_netns import Pod, PodPair
from support.processes.our_programs import run_program
from support.traffic.envoy_bootstrap import ADMIN_PORT, Sidecar
from support.traffic.envoy_proxy import start_envoy

ADMIN = f"http://127.0.0.1:{ADMIN_PORT}"


def proxy_causes(pod: Pod, *arguments: str) -> list[tuple[str, str]]:
    run_program(pod, "capture", "apply", "--backend", "nftables", *arguments)
    done = run_program(pod, "capture", "verify", "--proxy-admin", ADMIN, "--format", "json", code=None)
    causes = json.loads(done.stdout)["proxy"]
    assert done.returncode == (4 if causes else 0), done.stdout
    return [(cause["kind"], cause["where"]) for cause in causes]


def test_an_envoy_that_fits_and_one_that_does_not(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    start_envoy(pod, Sidecar())

    assert proxy_causes(pod) == []
    assert proxy_causes(pod, "-m", "TPROXY") == [("proxy-mode", "tcp port 15006")]
    assert proxy_causes(pod, "-p", "16001") == [("not-listening", "tcp port 16001")] * 2


def test_a_transparent_envoy_has_to_fit_mode_and_mark(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    start_envoy(pod, Sidecar(transparent=True))

    assert proxy_causes(pod, "-m", "TPROXY") == []
    assert proxy_causes(pod, "-m", "TPROXY", "-t", "7") == [("proxy-mode", "tcp port 15006")]
    assert proxy_causes(pod) == [("proxy-mode", "tcp port 15006")]


def test_no_admin_interface_is_an_error_with_a_remedy(pod_pair: PodPair) -> None:
    done = run_program(pod_pair.pod, "capture", "verify", "--proxy-admin", ADMIN, code=None)

    assert done.returncode == 1
    assert f"Envoy's admin interface {ADMIN}: " in done.stderr
    assert "--netns" in done.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:15000", "unix:///admin", "http://:15000", "http://127.0.0.1:99999"])
def test_a_text_that_is_no_url_is_wrong_usage(pod_pair: PodPair, url: str) -> None:
    done = run_program(pod_pair.pod, "capture", "verify", "--proxy-admin", url, code=None)

    assert done.returncode == 2
    assert f"--proxy-admin: invalid value '{url}': expected an http URL" in done.stderr

"""A kubeconfig is read as kubectl reads it, or refused with the place, and no error shows a secret."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.codes import BAD_KUBECONFIG
from cni.kubeconfig import Kubeconfig, parse_kubeconfig
from cni.protocol import CniError

PATH = "/etc/cni/net.d/capture-kubeconfig"


def a_config(cluster: dict[str, object] | None = None, user: dict[str, object] | None = None) -> dict[str, object]:
    return {
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1"} | (cluster or {})}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


def refused(text: str) -> str:
    with pytest.raises(CniError) as error:
        parse_kubeconfig(text, PATH)
    assert error.value.code == BAD_KUBECONFIG
    assert error.value.message.startswith(f"kubeconfig {PATH}: ")
    return error.value.message


def test_a_kubeconfig_in_json_is_read() -> None:
    config = a_config({"tls-server-name": "kubernetes", "insecure-skip-tls-verify": True}, {"tokenFile": "token"})
    parsed = parse_kubeconfig(json.dumps(config), PATH)
    assert parsed == Kubeconfig(
        PATH,
        {"server": "https://10.0.0.1", "tls-server-name": "kubernetes"},
        {"tokenFile": "/etc/cni/net.d/token"},
        skips_verification=True,
    )


def test_data_in_place_beats_a_file() -> None:
    user: dict[str, object] = {
        "client-certificate": "/pki/plugin.crt",
        "client-key": "plugin.key",
        "client-certificate-data": base64.b64encode(b"certificate").decode(),
        "client-key-data": "a2\r\nV5\n",  # Go's base64 passes over line breaks
    }
    assert parse_kubeconfig(json.dumps(a_config({"certificate-authority": "../ca.crt"}, user)), PATH) == Kubeconfig(
        PATH,
        {"server": "https://10.0.0.1", "certificate-authority": "/etc/cni/net.d/../ca.crt"},
        {
            "client-certificate": "/pki/plugin.crt",
            "client-certificate-data": "Y2VydGlmaWNhdGU=",
            "client-key": "/etc/cni/net.d/plugin.key",
            "client-key-data": "a2V5",
        },
    )


def test_a_context_may_have_no_user() -> None:
    config = a_config() | {"contexts": [{"name": "x", "context": {"cluster": "c"}}]}
    assert parse_kubeconfig(json.dumps(config), PATH) == Kubeconfig(PATH, {"server": "https://10.0.0.1"})


@pytest.mark.parametrize("explicit", [True, "true"])
def test_verification_is_left_out_only_on_request(explicit: object) -> None:
    assert parse_kubeconfig(json.dumps(a_config({"insecure-skip-tls-verify": explicit})), PATH).skips_verification
    for otherwise in (False, None, "false"):
        assert not parse_kubeconfig(
            json.dumps(a_config({"insecure-skip-tls-verify": otherwise})), PATH
        ).skips_verification


UNUSABLE = {
    "": "it is not JSON",
    "{": "line 1 column 2",
    "[]": "not a mapping",
    "kind: Config": "it is not JSON",
    "{}": "there is no current-context",
    json.dumps(a_config() | {"current-context": "y"}): "'contexts' has no entry 'y'",
    json.dumps(a_config() | {"clusters": []}): "'clusters' has no entry 'c'",
    json.dumps(a_config() | {"users": {"u": 1}}): "'users' has no entry 'u'",
    json.dumps(a_config() | {"contexts": [{"name": "x", "context": {}}]}): "there is no cluster in the current context",
    json.dumps(a_config() | {"clusters": [{"name": "c", "cluster": "x"}]}): "not a mapping",
    json.dumps(a_config({"server": ""})): "no 'server'",
    json.dumps(a_config({"server": 5})): "'server' is not a text",
    json.dumps(a_config({"insecure-skip-tls-verify": "yes"})): 'invalid value "yes": expected true or false',
    json.dumps(a_config({"proxy-url": "http://p"})): "'proxy-url' is not supported",
    json.dumps(a_config(user={"exec": {"command": "aws"}})): "'exec' is not supported",
    json.dumps(a_config(user={"auth-provider": {"name": "gcp"}})): "'auth-provider' is not supported",
    json.dumps(a_config(user={"username": "admin", "password": "x"})): "'username' is not supported",
    json.dumps(a_config(user={"as": "admin"})): "'as' is not supported",
    json.dumps(a_config(user={"token": "a\nb"})): "'token' is not a text on one line",
}


@pytest.mark.parametrize(("text", "problem"), UNUSABLE.items(), ids=range(len(UNUSABLE)))
def test_an_unusable_kubeconfig_is_refused_with_the_place(text: str, problem: str) -> None:
    assert problem in refused(text)


def test_no_error_shows_a_secret() -> None:
    private = "with#hash"
    for text in (f'{{"token": "{private}', f"token: {private}", json.dumps(a_config(user={"token": f"{private}\n"}))):
        assert private not in refused(text)


@given(st.text(alphabet="ab:- '\"#\n{}[]|&*!?\t\\", max_size=60))
def test_any_text_is_refused_with_the_place(text: str) -> None:
    assert refused(text)

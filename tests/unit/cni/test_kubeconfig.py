from __future__ import annotations

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.codes import BAD_KUBECONFIG
from cni.kubeconfig import Kubeconfig, YamlError, decode_yaml, parse
from cni.protocol import CniError

PATH = "/etc/cni/net.d/capture-kubeconfig"

# As `kubectl config` and the installers of CNI plugins write it.
YAML = """\
# Kubeconfig file for the plugin.
apiVersion: v1
kind: Config
clusters:
- name: local
  cluster:
    server: https://[fd00::1]:6443
    certificate-authority-data: "Q0E="
users:
- name: other
  user: {}
- name: plugin
  user:
    token: "eyJ.with#hash"   # a comment
contexts:
- context:
    cluster: local
    user: plugin
  name: plugin-context
current-context: plugin-context
preferences: {}
"""
SERVER, TOKEN = "https://[fd00::1]:6443", "eyJ.with#hash"
EXPECTED = Kubeconfig(PATH, SERVER, authority_data="Q0E=").replace(token=TOKEN)


def a_config(cluster: dict[str, object] | None = None, user: dict[str, object] | None = None) -> dict[str, object]:
    return {
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1"} | (cluster or {})}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


def refused(text: str) -> str:
    with pytest.raises(CniError) as error:
        parse(text, PATH)
    assert error.value.code == BAD_KUBECONFIG
    assert error.value.message.startswith(f"kubeconfig {PATH}: ")
    return error.value.message


def test_as_tools_write_it() -> None:
    assert parse(YAML, PATH) == EXPECTED


def test_with_lists_indented_and_another_quoting() -> None:
    indented = "".join(f"  {line}" if line[0] in "- " else line for line in YAML.splitlines(keepends=True))
    assert parse(indented, PATH) == EXPECTED
    assert parse(YAML.replace('"', "'"), PATH) == EXPECTED
    assert parse("---\n" + YAML.replace("\n", "\r\n"), PATH) == EXPECTED


def test_as_json() -> None:
    config = a_config({"tls-server-name": "kubernetes", "insecure-skip-tls-verify": True}, {"tokenFile": "token"})
    parsed = parse(json.dumps(config), PATH)
    assert parsed.token_file.startswith("/etc/cni/net.d/")
    assert parsed.replace(token_file="") == Kubeconfig(
        PATH, "https://10.0.0.1", tls_server_name="kubernetes", skips_verification=True
    )


def test_files_and_data() -> None:
    user: dict[str, object] = {
        "client-certificate": "/pki/plugin.crt",
        "client-key": "plugin.key",
        "client-certificate-data": base64.b64encode(b"certificate").decode(),
        "client-key-data": "a2V5",
    }
    assert parse(json.dumps(a_config({"certificate-authority": "../ca.crt"}, user)), PATH) == Kubeconfig(
        PATH,
        "https://10.0.0.1",
        authority_file="/etc/cni/net.d/../ca.crt",
        certificate_file="/pki/plugin.crt",
        certificate_data="Y2VydGlmaWNhdGU=",
        key_file="/etc/cni/net.d/plugin.key",
        key_data="a2V5",
    )


def test_a_context_may_have_no_user() -> None:
    config = a_config() | {"contexts": [{"name": "x", "context": {"cluster": "c"}}]}
    assert parse(json.dumps(config), PATH) == Kubeconfig(PATH, "https://10.0.0.1")


@pytest.mark.parametrize("explicit", [True, "true"])
def test_verification_is_left_out_only_where_that_is_said(explicit: object) -> None:
    assert parse(json.dumps(a_config({"insecure-skip-tls-verify": explicit})), PATH).skips_verification
    for otherwise in (False, None, "false"):
        assert not parse(json.dumps(a_config({"insecure-skip-tls-verify": otherwise})), PATH).skips_verification


UNUSABLE = {
    "": "there is nothing in it",
    "{": "line 1 column 2",
    "[]": "line 1",
    "text": "line 1: expected `name: value`",
    "{}": "there is no current-context",
    json.dumps(a_config() | {"current-context": "y"}): "'contexts' has no entry 'y'",
    json.dumps(a_config() | {"clusters": []}): "'clusters' has no entry 'c'",
    json.dumps(a_config() | {"users": {"u": 1}}): "'users' has no entry 'u'",
    json.dumps(a_config() | {"contexts": [{"name": "x", "context": {}}]}): "there is no cluster in the current context",
    json.dumps(a_config() | {"clusters": [{"name": "c", "cluster": "x"}]}): "no mapping",
    json.dumps(a_config({"server": ""})): "no 'server'",
    json.dumps(a_config({"server": 5})): "'server' is not a text",
    json.dumps(a_config({"insecure-skip-tls-verify": "yes"})): "neither true nor false",
    json.dumps(a_config({"proxy-url": "http://p"})): "'proxy-url' is not supported",
    json.dumps(a_config(user={"exec": {"command": "aws"}})): "'exec' is not supported",
    json.dumps(a_config(user={"auth-provider": {"name": "gcp"}})): "'auth-provider' is not supported",
    json.dumps(a_config(user={"username": "admin", "password": "x"})): "'username' is not supported",
    json.dumps(a_config(user={"as": "admin"})): "'as' is not supported",
    json.dumps(a_config(user={"token": "a\nb"})): "'token' is not a text on one line",
    YAML.replace("token:", "token: |"): "line 14",
    YAML.replace("preferences: {}", "preferences: {colors: true}"): "line 21",
    YAML.replace("kind: Config", "kind: *anchor"): "line 3",
    YAML.replace("kind: Config", "kind: 'Config"): "line 3",
    YAML.replace("kind: Config", "kind: Config\nkind: Config"): "line 4: 'kind' is there twice",
    YAML.replace("    server", "\tserver"): "line 7: tabs",
    YAML.replace("    certificate-authority-data", "   certificate-authority-data"): "line 8",
}


@pytest.mark.parametrize(("text", "problem"), UNUSABLE.items(), ids=range(len(UNUSABLE)))
def test_what_cannot_be_used_is_refused_with_the_place(text: str, problem: str) -> None:
    assert problem in refused(text)


def test_no_error_shows_a_secret() -> None:
    for text in (YAML.replace('"eyJ', "|eyJ"), YAML.replace('hash"', 'hash" more'), YAML.replace("token:", "token")):
        assert "with#hash" not in refused(text)


# --- the part of YAML ------------------------------------------------------------------------------------------

VALUES = [
    ("a: b", {"a": "b"}),
    ("a:", {"a": None}),
    ("a: ~", {"a": None}),
    ("a: null\nb: true\nc: false", {"a": None, "b": True, "c": False}),
    ("a: 'true'", {"a": "true"}),
    ("a: 'it''s'", {"a": "it's"}),
    ('a: "\\u00e9\\n"', {"a": "é\n"}),
    ("a: 5", {"a": "5"}),
    ("a: b # c", {"a": "b"}),
    ("a: b#c", {"a": "b#c"}),
    ("a: 'b # c'", {"a": "b # c"}),
    ("'a: b': c", {"a: b": "c"}),
    ("a: b:c", {"a": "b:c"}),
    ("- a\n- b", ["a", "b"]),
    ("-\n  a: b\n- c: d\n  e: f", [{"a": "b"}, {"c": "d", "e": "f"}]),
    ("- - a\n  - b\n- c", [["a", "b"], "c"]),
    ("a:\n- b\nc: d", {"a": ["b"], "c": "d"}),
    ("a:\n  - b\nc: d", {"a": ["b"], "c": "d"}),
    ("a:\n  b:\n    c: d\n  e: f", {"a": {"b": {"c": "d"}, "e": "f"}}),
    ("\n# comment\n\na: b\n\n", {"a": "b"}),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_yaml(text: str, value: object) -> None:
    assert decode_yaml(text) == value


@given(st.text(alphabet="ab:- '\"#\n{}[]|&*!?\t\\", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(YamlError):
        decode_yaml(text)


def test_depth_and_length_are_bounded() -> None:
    for text in ("\n".join(" " * level + "a:" for level in range(100)), "- " * 1000 + "a", "a\n" * 20_000):
        with pytest.raises(YamlError):
            decode_yaml(text)

"""The plugin's kubeconfig and token are private, current, and written only when they change."""

import base64
import json
import os
from pathlib import Path

import pytest

from cni import kubeconfig
from cni.agent import credentials
from cni.agent.options import Options
from cni.tokens import Token, token_in

ADDRESS = {"KUBERNETES_SERVICE_HOST": "fd00:96::1", "KUBERNETES_SERVICE_PORT": "443"}


def jwt(**claims: object) -> str:
    parts = [{"alg": "RS256"}, claims]
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*coded, "signature"])


@pytest.fixture
def options(tmp_path: Path) -> Options:
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text(jwt(iat=1000, exp=4600) + "\n")
    (account / "ca.crt").write_text("an authority")
    return Options("node-1", "", {}, conf_dir=str(tmp_path / "cni" / "net.d"), service_account=str(account))


def test_the_plugins_credentials_are_for_root_alone(options: Options) -> None:
    written = credentials.renew(options, ADDRESS)
    assert [os.path.relpath(path, options.credentials) for path in written] == ["ca.crt", "token", "kubeconfig"]
    assert os.path.dirname(options.credentials) == os.path.dirname(options.conf_dir)
    assert [os.stat(path).st_mode & 0o777 for path in (*written, options.credentials)] == [0o600] * 3 + [0o700]
    with open(options.kubeconfig) as file:
        config = kubeconfig.parse_kubeconfig(file.read(), options.kubeconfig)
    assert (config.server, config.user["tokenFile"]) == ("https://[fd00:96::1]:443", f"{options.credentials}/token")


def test_unchanged_credentials_are_not_written(options: Options) -> None:
    credentials.renew(options, ADDRESS)
    assert credentials.renew(options, ADDRESS) == []


def test_a_renewed_token_is_passed_on(options: Options) -> None:
    credentials.renew(options, ADDRESS)
    Path(options.service_account, "token").write_text(jwt(iat=2000, exp=5600))
    assert credentials.renew(options, ADDRESS) == [f"{options.credentials}/token"]
    assert token_in(f"{options.credentials}/token") == Token(2000.0, 5600.0)


def test_a_file_that_others_could_read_is_written_again(options: Options) -> None:
    credentials.renew(options, ADDRESS)
    os.chmod(f"{options.credentials}/token", 0o644)
    assert credentials.renew(options, ADDRESS) == [f"{options.credentials}/token"]


def test_a_token_is_short_when_kubelet_should_have_renewed_it() -> None:
    token = Token(1000.0, 4600.0)
    assert not token.is_nearly_expired(4600 - 720)  # kubelet renews at a fifth
    assert token.is_nearly_expired(4600 - 350)
    assert token.seconds_left(4000) == 600
    assert not Token(0.0, 0.0).is_nearly_expired(1e12)


@pytest.mark.parametrize("claims", [{"iat": 1, "exp": 2, "x": "???>>>"}, {"iat": 1, "exp": 2, "x": "~~~\u00ff\u00fe"}])
def test_a_token_is_read_in_the_alphabet_for_urls(tmp_path: Path, claims: dict[str, object]) -> None:
    (tmp_path / "token").write_text(jwt(**claims))
    assert token_in(str(tmp_path / "token")) == Token(1.0, 2.0)


def test_a_token_without_an_end_lasts() -> None:
    assert Token(1000.0, 0.0).seconds_left(1e9) == float("inf")
    assert Token(0.0, 1000.0).is_nearly_expired(901)
    assert not Token(0.0, 1000.0).is_nearly_expired(899)


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "https://10.96.0.1:443"),
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}, "https://10.96.0.1:6443"),
        (ADDRESS, "https://[fd00:96::1]:443"),
    ],
)
def test_the_address_of_the_api_server(environment: dict[str, str], url: str) -> None:
    assert credentials.api_server(environment) == url


def test_a_given_api_server_beats_what_kubelet_says(options: Options) -> None:
    credentials.renew(options.replace(api_server="https://lb:6443"), ADDRESS)
    config = json.loads(Path(options.kubeconfig).read_text())
    assert config["clusters"][0]["cluster"]["server"] == "https://lb:6443"
    assert config["clusters"][0]["cluster"]["certificate-authority"] == f"{options.credentials}/ca.crt"
    assert (config["current-context"], config["contexts"][0]["name"]) == ("capture", "capture")
    assert config["contexts"][0]["context"] == {
        "cluster": config["clusters"][0]["name"],
        "user": config["users"][0]["name"],
    }


def test_foreign_files_stay(options: Options) -> None:
    credentials.renew(options, ADDRESS)
    os.unlink(f"{options.credentials}/token")
    Path(options.credentials, "foreign").touch()
    assert [os.path.basename(path) for path in credentials.remove(options)] == ["kubeconfig", "ca.crt"]
    assert os.listdir(options.credentials) == ["foreign"]


ENDLESS = base64.urlsafe_b64encode(b'{"exp": 1%s}' % (b"0" * 400)).decode()


@pytest.mark.parametrize("text", ["", "a.b", "a.!.c", "a.bnVsbA.c", "a.e30.c", f"a.{ENDLESS}.c"])
def test_other_tokens_have_no_times(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    assert token_in(str(tmp_path / "token")) == Token(0.0, 0.0)


def test_all_of_it_goes(options: Options) -> None:
    credentials.renew(options, ADDRESS)
    assert len(credentials.remove(options)) == 3
    assert not os.path.exists(options.credentials)
    assert credentials.remove(options) == []

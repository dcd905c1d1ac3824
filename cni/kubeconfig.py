"""A kubeconfig: how to reach an API server, and as whom. Text in, values out; files that it names are read later.

Kubeconfigs are YAML, which JSON is a part of. Nodes have no YAML library for us, so this reads JSON, and of YAML the
part in which tools write kubeconfigs: block mappings and lists, plain and quoted scalars on one line, comments. What
is not in that part is an error that names the line, and never a guess.

Sources: Kubernetes, ``client-go/tools/clientcmd/api/v1`` for the fields; YAML 1.2.2, chapters 7 and 8.
"""

from __future__ import annotations

from capture.model.values import Value
from capture.state.json_text import JsonError, decode
from cni.codes import BAD_KUBECONFIG
from cni.protocol import CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WAYS_TO_PROVE = "token, tokenFile, or client-certificate with client-key (each of these also with -data)"

# Fields that would have to be honoured, and are not: running programs and old ways to log in.
UNSUPPORTED_USER = ("exec", "auth-provider", "username", "password", "as", "as-groups", "as-uid")
UNSUPPORTED_CLUSTER = ("proxy-url",)


class Kubeconfig(Value):
    """What a kubeconfig says. Of a file and its content in place (``-data``, base64), the content counts."""

    path: str
    server: str
    tls_server_name: str = ""
    authority_file: str = ""
    authority_data: str = ""
    skips_verification: bool = False
    token: str = ""
    token_file: str = ""
    certificate_file: str = ""
    certificate_data: str = ""
    key_file: str = ""
    key_data: str = ""


def unusable(path: str, problem: str, remedy: str = "") -> CniError:
    """Return the error for a kubeconfig, or a file that it names, that cannot be used."""
    return CniError(
        BAD_KUBECONFIG,
        f"kubeconfig {path}: {problem}",
        remedy or "`kubectl --kubeconfig FILE config view` shows what a kubeconfig says.",
    )


def parse(text: str, path: str) -> Kubeconfig:
    """Return what the current context of a kubeconfig says; raise ``CniError`` with the path and the place."""
    try:
        plain = decode(text) if text.lstrip().startswith("{") else decode_yaml(text)
    except (JsonError, YamlError) as error:
        raise unusable(path, str(error), "Write it as JSON: `kubectl config view --raw -o json`.") from None
    reader = _Reader(path)
    config = reader.mapping(plain, "it")
    context = reader.named(config, "contexts", "context", reader.text(config, "current-context"))
    cluster = reader.named(config, "clusters", "cluster", reader.text(context, "cluster"))
    user = reader.named(config, "users", "user", reader.text(context, "user")) if context.get("user") else {}
    reader.refuse(cluster, UNSUPPORTED_CLUSTER, "a connection straight to the server")
    reader.refuse(user, UNSUPPORTED_USER, WAYS_TO_PROVE)
    found = Kubeconfig(
        path=path,
        server=reader.text(cluster, "server"),
        tls_server_name=reader.text(cluster, "tls-server-name"),
        authority_file=reader.file(cluster, "certificate-authority"),
        authority_data=reader.text(cluster, "certificate-authority-data"),
        skips_verification=reader.truth(cluster, "insecure-skip-tls-verify"),
        token=reader.text(user, "token"),
        token_file=reader.file(user, "tokenFile"),
        certificate_file=reader.file(user, "client-certificate"),
        certificate_data=reader.text(user, "client-certificate-data"),
        key_file=reader.file(user, "client-key"),
        key_data=reader.text(user, "client-key-data"),
    )
    if not found.server:
        raise unusable(path, "the cluster of the current context has no 'server'")
    return found


class _Reader:
    """Takes fields out of the decoded file, and knows which file the errors are about."""

    def __init__(self, path: str) -> None:
        self.path = path

    def mapping(self, value: object, what: str) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        raise unusable(self.path, f"{what} is no mapping of names to values")

    def text(self, holder: dict[str, Any], key: str) -> str:
        value = holder.get(key)
        if value is None:
            return ""
        if not isinstance(value, str) or not value.isprintable():
            raise unusable(self.path, f"{key!r} is not a text on one line")
        return value

    def file(self, holder: dict[str, Any], key: str) -> str:
        """Return a path; a relative one starts where the kubeconfig is."""
        value = self.text(holder, key)
        if not value or value.startswith("/"):
            return value
        return f"{self.path.rpartition('/')[0]}/{value}"

    def truth(self, holder: dict[str, Any], key: str) -> bool:
        value = holder.get(key)
        if value in (None, False, "false"):
            return False
        if value in (True, "true"):
            return True
        raise unusable(self.path, f"{key!r} is neither true nor false")

    def named(self, config: dict[str, Any], key: str, member: str, name: str) -> dict[str, Any]:
        """Return what a list of the file, such as ``clusters``, has under a name."""
        if not name:
            missing = "current-context" if key == "contexts" else f"{member} in the current context"
            raise unusable(self.path, f"there is no {missing}")
        entries = config.get(key)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and entry.get("name") == name:
                return self.mapping(entry.get(member), f"{key} {name!r}")
        raise unusable(self.path, f"{key!r} has no entry {name!r}")

    def refuse(self, holder: dict[str, Any], keys: tuple[str, ...], expected: str) -> None:
        for key in keys:
            if holder.get(key):
                raise unusable(self.path, f"{key!r} is not supported; expected {expected}")


# --- YAML, the part of it that is needed -----------------------------------------------------------------------


class YamlError(ValueError):
    """A text is not in the part of YAML that is read here: what was found, and on which line."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")


class _Line(Value):
    """A line with something on it: its number from 1, its indentation, and the rest without comment."""

    number: int
    indent: int
    text: str


PLAIN_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
MAX_LINES = 10_000
MAX_LEVELS = 32


def decode_yaml(text: str) -> Any:
    """Return the value of a YAML text of blocks, with texts, true, false and null in it; raise ``YamlError``."""
    lines = [line for number, raw in enumerate(text.split("\n"), 1) if (line := _line(number, raw.rstrip("\r")))]
    if lines and lines[0].text == "---":
        del lines[0]
    if not lines:
        raise YamlError(1, "there is nothing in it")
    if len(lines) > MAX_LINES:
        raise YamlError(MAX_LINES, "too long for a kubeconfig")
    value, rest = _block(lines, 0, 0)
    if rest < len(lines):
        raise YamlError(lines[rest].number, "this indentation belongs to nothing above")
    return value


def _line(number: int, raw: str) -> _Line | None:
    text = raw.lstrip(" ")
    if not text or text.startswith("#"):
        return None
    if not text.isprintable():
        raise YamlError(number, "tabs and control characters are not read here")
    return _Line(number, len(raw) - len(text), _without_comment(text))


def _without_comment(text: str) -> str:
    """Return the text before a comment: a ``#`` after a blank that is not in quotes."""
    quote = ""
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and (place == 0 or text[place - 1] in " :"):
            quote = character
        elif character == "#" and place and text[place - 1] == " ":
            return text[:place].rstrip(" ")
    return text.rstrip(" ")


def _block(lines: list[_Line], start: int, level: int) -> tuple[Any, int]:
    """Return the mapping or list that starts on a line, and the number of the line after it."""
    if level > MAX_LEVELS:
        raise YamlError(lines[start].number, "nested too deeply")
    if _is_entry(lines[start].text):
        return _list(lines, start, level)
    return _mapping(lines, start, level)


def _is_entry(text: str) -> bool:
    return text == "-" or text.startswith("- ")


def _list(lines: list[_Line], start: int, level: int) -> tuple[list[Any], int]:
    entries = []
    indent, place = lines[start].indent, start
    while place < len(lines) and lines[place].indent == indent and _is_entry(lines[place].text):
        line = lines[place]
        content = line.text[1:].lstrip(" ")
        if not content:
            value, place = _nested(lines, place + 1, indent + 1, level)
        elif _is_entry(content) or _colon(content) >= 0:
            # "- name: x" starts a mapping whose indentation is that of "name".
            lines[place] = _Line(line.number, indent + len(line.text) - len(content), content)
            value, place = _block(lines, place, level + 1)
        else:
            value, place = _scalar(line.number, content), place + 1
        entries.append(value)
    return entries, place


def _mapping(lines: list[_Line], start: int, level: int) -> tuple[dict[str, Any], int]:
    members: dict[str, Any] = {}
    indent, place = lines[start].indent, start
    while place < len(lines) and lines[place].indent == indent and not _is_entry(lines[place].text):
        line = lines[place]
        colon = _colon(line.text)
        if colon < 0:
            raise YamlError(line.number, "expected `name: value`")
        name = _scalar(line.number, line.text[:colon].rstrip(" "))
        if not isinstance(name, str):
            raise YamlError(line.number, "expected a text as name")
        if name in members:
            raise YamlError(line.number, f"{name!r} is there twice")
        content = line.text[colon + 1 :].lstrip(" ")
        if content:
            members[name], place = _scalar(line.number, content), place + 1
        else:
            # The entries of a list may stand as far left as the name of the list.
            has_list = place + 1 < len(lines) and _is_entry(lines[place + 1].text)
            members[name], place = _nested(lines, place + 1, indent if has_list else indent + 1, level)
    return members, place


def _nested(lines: list[_Line], place: int, least: int, level: int) -> tuple[Any, int]:
    """Return the block that starts on a line, if that is indented enough to belong to the line above; else null."""
    if place < len(lines) and lines[place].indent >= least:
        return _block(lines, place, level + 1)
    return None, place


def _colon(text: str) -> int:
    """Return where the name before ``: `` ends; -1 if the text is not ``name: value``."""
    start = 0
    if text[0] in "'\"":
        start = text.find(text[0], 1) + 1
        if start == 0:
            return -1
    if text.endswith(":") and ": " not in text[start:]:
        return len(text) - 1
    return text.find(": ", start)


def _scalar(number: int, text: str) -> str | bool | None:
    """Return the value of a scalar; numbers stay texts, since no field here is a number."""
    if text in ("{}", "[]"):
        return None
    if text[:1] == "'":
        return _single_quoted(number, text)
    if text[:1] == '"':
        try:
            value = decode(text)  # the escapes of JSON are the ones in use
        except JsonError:
            raise YamlError(number, "a text in double quotes that JSON would not take") from None
        return str(value)
    if text[:1] in tuple("[]{}&*!|>%@`,?") or ": " in text:  # it may be a secret, so it is not shown
        raise YamlError(number, "a value in a notation of YAML that is not read here")
    return PLAIN_WORDS.get(text, text)


def _single_quoted(number: int, text: str) -> str:
    inner = text[1:-1]
    if len(text) < 2 or text[-1] != "'" or "'" in inner.replace("''", ""):
        raise YamlError(number, "a text in single quotes that does not end where the line does")
    return inner.replace("''", "'")

"""Errors are for the person who reads them: exit codes, sentences, what to do."""

import errno

import pytest

from capture import errors
from capture.errors import (
    CaptureError,
    ConfigurationError,
    HostNamespaceError,
    KernelError,
    MissingFeatureError,
    NamespaceError,
    NotProvenError,
    PrivilegeError,
    StateDirectoryError,
    ToolError,
    UnsupportedError,
    ValidationError,
)
from capture.system.child import decode_error, encode_error

EXIT_CODES: dict[type[CaptureError], int] = {
    CaptureError: 1,
    NamespaceError: 1,
    StateDirectoryError: 1,
    KernelError: 1,
    ToolError: 1,
    ConfigurationError: 2,
    HostNamespaceError: 2,
    UnsupportedError: 3,
    MissingFeatureError: 3,
    PrivilegeError: 3,
    ValidationError: 126,
    NotProvenError: 125,
}


def test_every_kind_of_error_has_its_exit_code() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CaptureError)}
    assert {kind: kind.exit_code for kind in kinds} == EXIT_CODES
    assert (errors.EXIT_DONE, errors.EXIT_DRIFT) == (0, 4)


def test_the_tree_in_the_description_is_the_one_that_is_there() -> None:
    described = {
        line.split()[1]: int(line.split()[2].rstrip(":"))
        for line in (errors.__doc__ or "").replace("│   ", "").splitlines()
        if line.startswith(("├── ", "└── "))
    }
    assert described == {kind.__name__: code for kind, code in EXIT_CODES.items() if kind is not CaptureError}


SENTENCES: list[tuple[CaptureError, str]] = [
    (CaptureError("it broke"), "it broke"),
    (CaptureError("it broke", "Mend it."), "it broke\n  Mend it."),
    (
        ConfigurationError("--envoy-port", "0", "command line", "a port (1-65535)"),
        "--envoy-port: invalid value '0': expected a port (1-65535)",
    ),
    (
        ConfigurationError("--envoy-port", "8\n0", "environment ENVOY_PORT", "a port"),
        "--envoy-port (environment ENVOY_PORT): invalid value '8\\n0': expected a port",
    ),
    (
        HostNamespaceError("kubelet (process 5) runs in it", "clean"),
        (
            "refused: this network namespace is that of a node, since kubelet (process 5) runs in it;"
            " pass --allow-host to clean it\n"
            "  Name the pod's namespace with --netns PATH or --pid N (istio-init: --network-namespace PATH)."
        ),
    ),
    (KernelError("add a rule", errno.EBUSY), "add a rule: Device or resource busy"),
    (KernelError("add a rule", errno.EINVAL, "no such table"), "add a rule: Invalid argument (no such table)"),
    (ToolError("nft -f -", 1, "Error: syntax\n"), "`nft -f -` ended with status 1: Error: syntax"),
    (ToolError("nft -f -", 1, " \n", "Look."), "`nft -f -` ended with status 1: it printed no error\n  Look."),
]


@pytest.mark.parametrize(("error", "sentence"), SENTENCES)
def test_each_error_is_a_sentence(error: CaptureError, sentence: str) -> None:
    assert str(error) == sentence


@pytest.mark.parametrize("kind", EXIT_CODES)
def test_an_error_of_a_child_comes_back_with_all_it_knows(kind: type[CaptureError]) -> None:
    made: dict[type[CaptureError], CaptureError] = {
        ConfigurationError: ConfigurationError("--proxy-uid", "5", "command line", "a user"),
        HostNamespaceError: HostNamespaceError(),
        KernelError: KernelError("add a rule", errno.EINVAL),
        StateDirectoryError: StateDirectoryError("/run/x", "is a link"),
        ToolError: ToolError("nft", 1, "no", "Look."),
        NotProvenError: NotProvenError(["inbound"]),  # type: ignore[arg-type]  # JSON has no tuples
        NamespaceError: NamespaceError("/x", "is none"),
    }
    error = made.get(kind) or kind("it broke")
    again = decode_error(encode_error(error))
    assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))


@pytest.mark.parametrize("error", [HostNamespaceError(), PrivilegeError("do it"), NamespaceError("/x", "is none")])
def test_an_error_has_a_remedy(error: CaptureError) -> None:
    assert error.remedy.endswith(".")
    assert error.remedy in str(error)

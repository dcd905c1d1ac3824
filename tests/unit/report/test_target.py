"""Commands in messages name the pod that they are about."""

import pytest

from capture.report.target import with_target

AGAIN = "Run `capture apply --recorded`, or recreate the pod; `capture cni status` looks at the node."


@pytest.mark.parametrize(
    ("namespace", "option"),
    [
        ("/proc/4711/ns/net", " --pid 4711"),
        ("/run/netns/pod", " --netns /run/netns/pod"),
        ("/x y", " --netns '/x y'"),
        (None, ""),
    ],
)
def test_commands_name_the_pod_that_they_are_about(namespace: str | None, option: str) -> None:
    expected = AGAIN.replace("--recorded", f"--recorded{option}")

    assert with_target({"causes": [{"remedy": AGAIN}], "certain": True}, namespace) == {
        "causes": [{"remedy": expected}],
        "certain": True,
    }
    assert with_target(expected, namespace) == expected


def test_a_command_for_within_the_pod_enters_it() -> None:
    remedy = "Set it up: `ip link set lo up` in the pod's namespace, see `ip -6 rule`; policy rule `from all lookup 5`."

    assert with_target(remedy, "/proc/4711/ns/net") == (
        "Set it up: `nsenter --net=/proc/4711/ns/net ip link set lo up`, see `nsenter --net=/proc/4711/ns/net"
        " ip -6 rule`; policy rule `from all lookup 5`."
    )
    assert with_target(remedy, None) == remedy

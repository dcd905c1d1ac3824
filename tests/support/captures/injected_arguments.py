"""Arguments as Istio's injector gives them to its init container, in the shapes that its templates have."""

LOG_FLAGS = (
    ["--log_output_level=default:info"],
    ["--log_output_level", "all:warn,grpc:none", "--log_as_json"],
    ["--log_as_json=false", "--log_target=stdout", "--log_target", "/dev/null", "--vklog=9"],
    ["--log_caller=default", "--log_stacktrace_level", "default:none"],
    ["--log_rotate=/var/log/x", "--log_rotate_max_age=1", "--log_rotate_max_size", "2", "--log_rotate_max_backups=3"],
)
"""Flags that pilot-agent takes with every command; the first is in every pod of Istio 1.15 and later."""


def injected(
    *more: str, mode: str = "REDIRECT", uid: str = "1337", networks: str = "*", ports: str = "*", excluded: str = ""
) -> list[str]:
    """Return the arguments that every pod gets, with values that annotations change, and more of them."""
    return [
        *("istio-iptables", "-p", "15001", "-z", "15006", "-u", uid, "-m", mode, "-i", networks),
        *("-x", "", "-b", ports, "-d", f"15090,15021{excluded}", *more),
    ]


INJECTED = {
    "plain": injected(excluded=",15020"),
    "TPROXY": injected(mode="TPROXY", excluded=",15020"),
    "another user": injected(uid="2001", excluded=",15020"),
    "nothing included": injected(networks="", ports=""),
    "networks and ports": injected("-o", "9042,9043", networks="10.2.0.0/16,127.0.0.1/24", ports="80,81"),
    "virtual machines": injected("-k", "net1,net2", excluded=",8123"),
    "more ports": injected("-q", "5432", "-c", "net0", excluded=",4,5,6,15020"),
    "DNS": injected("--redirect-dns", "--capture-all-dns", excluded=",15020"),
    "with the plugin": injected("--run-validation", "--skip-rule-apply", excluded=",15020"),
    "nftables": injected("--native-nftables", "--force-apply", excluded=",15020"),
}

#!/usr/bin/env bash
# Run the kernel tests with `iptables` being one flavour: kernel-tests.sh CHECKOUT nft|legacy
set -euo pipefail
checkout="$1" flavour="$2"

# Red Hat's ip6tables follows iptables; Debian's has alternatives of its own.
for command in iptables ip6tables; do
    if update-alternatives --display "$command" >/dev/null 2>&1; then
        update-alternatives --set "$command" "$(command -v "$command-$flavour")"
    fi
done
iptables --version
uname -r

cd "$checkout"
CI=1 .venv/bin/pytest -n auto -m "kernel and not long" tests/kernel

#!/usr/bin/env bash
# Install what the kernel tests need in a fresh machine: packages.sh CHECKOUT
#
# A Python of 3.11 or later for every user comes from the distribution where it has one (Debian 12: 3.11,
# Ubuntu 24.04: 3.12, Rocky 9: the package python3.11). Debian 11 stops at 3.9 and Ubuntu 22.04 at a release
# candidate of 3.11: there it is a build by uv (https://docs.astral.sh/uv/), under /opt, because the tests run
# programs as uid 1337, to which a home directory is closed.
set -euo pipefail
checkout="$1"
# shellcheck source=/dev/null # of the machine
. /etc/os-release

python_by_uv() {
    python3 -m venv /opt/uv
    /opt/uv/bin/pip install --quiet --upgrade pip uv
    /opt/uv/bin/uv python install --install-dir /opt/python 3.11
    ln -sf /opt/python/cpython-3.11.*/bin/python3.11 /usr/local/bin/python3 # where scripts/setup looks
}

case "$ID-$VERSION_ID" in
    debian-11 | ubuntu-22.04)
        apt-get update --quiet
        apt-get install --yes --quiet --no-install-recommends python3-venv ca-certificates
        python_by_uv
        ;;
    debian-* | ubuntu-*) ;; # scripts/setup does it all
    rocky-9*)
        dnf install --assumeyes --quiet epel-release # iptables-legacy is there
        dnf install --assumeyes --quiet python3.11 python3.11-devel gcc \
            iptables-nft iptables-legacy nftables iproute procps-ng util-linux \
            conntrack-tools
        ;;
    *)
        echo "packages.sh knows no $ID $VERSION_ID" >&2
        exit 1
        ;;
esac
"$checkout/scripts/setup" kernel

#!/bin/bash
# What the targets of the Makefile need from the operating system: looked for, and installed where that is possible.
#
#   tools/prepare.sh python        Python 3.11 or later that can make virtual environments with pip
#   tools/prepare.sh bare_python   Python 3.11 or later; pip comes from a wheel
#   tools/prepare.sh vm            QEMU, what builds the image of the tests' virtual machine, what checks units and man pages, a browser, shells
#
# As root on Debian and its children it installs what is missing. Elsewhere it names what is missing: without python
# that is an error; without the virtual machine's tools the tests that need it fail, unless OOMGUARD_NO_VM=1 says that this is meant.
set -euo pipefail

missing=()

need() {  # need COMMAND PACKAGE: PACKAGE is missing where COMMAND is
    command -v "$1" >/dev/null || PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null || missing+=("$2")
}

look_for_bare_python() {
    local python=${PYTHON:-python3}
    if ! command -v "$python" >/dev/null; then
        missing+=(python3)
    elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "oomguard needs Python 3.11 or later, and $python is $("$python" -V): name another one, make PYTHON=..." >&2
        exit 3
    fi
}

look_for_python() {
    look_for_bare_python
    # Debian keeps ensurepip in a package of its own.
    "${PYTHON:-python3}" -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
}

look_for_vm() {
    need "qemu-system-$(uname -m)" qemu-system-x86
    need qemu-img qemu-utils
    need mmdebstrap mmdebstrap
    need mke2fs e2fsprogs
    need cc gcc  # a small program on sd-event, which is put into the guest
    [[ -e /usr/include/dlfcn.h ]] || missing+=(libc6-dev)
    need systemd-analyze systemd  # asked about our unit; no container has it
    need journalctl systemd
    need chromium chromium  # the report is looked at in a real browser
    need dbus-daemon dbus-daemon  # notifications are shown on a real session bus
    need man man-db  # man pages are formatted by both
    need mandoc mandoc
    need zsh zsh  # completions are asked for in the real shells
    need fish fish
}

# What the exporter says is read by Prometheus itself. Unpacked, not installed: Debian's package would start a server.
unpack_prometheus() {
    local to=.venv/prometheus
    if command -v promtool >/dev/null && command -v prometheus >/dev/null || [[ -x $to/usr/bin/promtool ]]; then return; fi
    [[ -d .venv ]] && command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 0
    rm -rf "$to" && mkdir -p "$to"
    if ! (cd "$to" && apt-get download -qq -o APT::Sandbox::User=root prometheus </dev/null >/dev/null && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb); then
        rm -rf "$to"
        echo "going on without prometheus, which apt-get could not download: its tests are skipped" >&2
    fi
}

what=$1
"look_for_$what"
[[ $what == vm ]] && unpack_prometheus
[[ ${#missing[@]} -eq 0 ]] && exit 0
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

if [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
    echo "installing ${missing[*]} ..."
    export DEBIAN_FRONTEND=noninteractive
    if apt-get update -qq </dev/null && apt-get install -qq -y --no-install-recommends "${missing[@]}" </dev/null; then
        exit 0
    fi
    echo "apt-get could not install ${missing[*]}" >&2
else
    echo "missing on this machine: ${missing[*]} (apt-get install ${missing[*]})" >&2
fi
[[ $what == vm ]] && { echo "going on without: the tests that need it will fail, unless OOMGUARD_NO_VM=1 is set" >&2; exit 0; }
exit 3

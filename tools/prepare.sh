#!/bin/bash
# What the targets of the Makefile need from the operating system: looked for, and installed where that is possible.
#
#   tools/prepare.sh python        Python 3.11 or later that can make virtual environments with pip
#   tools/prepare.sh bare_python   Python 3.11 or later; pip comes from a wheel
#   tools/prepare.sh vm            QEMU, what builds the image of the tests' virtual machine, systemd's checkers, a browser
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
}

what=$1
"look_for_$what"
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

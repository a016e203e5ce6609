#!/bin/bash
# A fire drill, and the incident that it leaves: here if this machine can have one, else in the virtual machine.
# `make demo VM=1` has it in the machine in any case.
set -euo pipefail
cd "$(dirname "$0")/.."

oomguard=.venv/bin/oomguard
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT

here() {
    [[ -z ${VM:-} ]] || return 4
    $oomguard drill --alone --state-dir "$there"
}

code=0
here || code=$?
if [[ $code -ne 3 && $code -ne 4 ]]; then
    echo
    $oomguard incidents show last --state-dir "$there" || true
    exit "$code"
fi

echo "# in a virtual machine: Debian with systemd and cgroup v2" >&2
tools/prepare.sh vm
exec .venv/bin/python tests/vm/run 'd=/var/tmp/demo; oomguard drill --alone --state-dir $d; code=$?; echo
oomguard incidents show last --state-dir $d; exit $code'

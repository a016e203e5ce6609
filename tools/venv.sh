#!/bin/bash
# The development environment: .venv in the checkout, with oomguard installed editable and everything the tests use.
# Quick when nothing changed; safe when called twice at the same time.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.installed
fresh() { [[ -f $stamp && ! pyproject.toml -nt $stamp && ! tools/venv.sh -nt $stamp ]]; }

exec 9>.venv.lock
flock 9
fresh && exit 0

tools/prepare.sh python
[[ -x .venv/bin/pip ]] || "${PYTHON:-python3}" -m venv .venv
echo "installing oomguard and its tools into .venv ..."
.venv/bin/pip install --quiet --disable-pip-version-check --editable '.[dev,report,metrics,notify]' </dev/null
touch $stamp

#!/bin/bash
# All tests, in two lanes: what waits for the virtual machine, and beside it what runs here. Within a lane one after the
# other. Arguments go to both (-k judge); what the lane of the machine has to say comes after the other.
set -uo pipefail
cd "$(dirname "$0")/.."

pytest() { .venv/bin/python -m pytest --durations=10 --durations-min=5 "$@"; }
NONE=5  # pytest's exit code where -k and the like leave no test

said=$(mktemp)
trap 'rm -f "$said"' EXIT
pytest -m vm -p no:cacheprovider "$@" >"$said" 2>&1 </dev/null &
machine=$!
trap 'kill $machine 2>/dev/null; rm -f "$said"' INT TERM
pytest -m 'not vm' "$@"
here=$?
wait $machine
there=$?
cat "$said"

[[ $here -eq $NONE && $there -eq $NONE ]] && exit $NONE
[[ $here -eq $NONE ]] && here=0
[[ $there -eq $NONE ]] && there=0
exit $((here ? here : there))

#!/bin/bash
# All tests, in two lanes: the storms in a machine; and beside them what runs here, then all other tests in a machine of
# their own. Within a lane one after the other. Arguments go to all (-k judge); what the machines have to say comes last.
# Who names a file, or a mark (-m 'not vm'), gets just that, one after the other.
set -uo pipefail
cd "$(dirname "$0")/.."

pytest() { .venv/bin/python -m pytest --durations=10 --durations-min=5 "$@"; }
NONE=5  # pytest's exit code where -k and the like leave no test

for word in "$@"; do
    [[ $word == -m* || -e ${word%%::*} ]] && exec .venv/bin/python -m pytest "$@"
done

storms=()
for room in machine leaks limits workers healthy crash stopped actions service; do
    storms+=("tests/vm/test_$room.py")
done

own=$(mktemp -d)
trap 'rm -rf "$own"' EXIT
pytest "${storms[@]}" -p no:cacheprovider "$@" >"$own/storms" 2>&1 </dev/null &
first=$!
trap 'kill $first 2>/dev/null; rm -rf "$own"' INT TERM
pytest -m 'not vm' "$@"
here=$?
TMPDIR=$own pytest -m vm "${storms[@]/#/--ignore=}" -p no:cacheprovider "$@" >"$own/others" 2>&1 </dev/null
others=$?
wait $first
first=$?
cat "$own/others" "$own/storms"

worst=$NONE
for code in $here $others $first; do
    [[ $code -eq $NONE ]] && continue
    [[ $worst -eq $NONE || $worst -eq 0 ]] && worst=$code
done
exit $worst

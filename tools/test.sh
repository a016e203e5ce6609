#!/bin/bash
# All tests, in two lanes: the storms in a machine; and beside them what runs here, then all other tests in a machine of
# their own. Within a lane one after the other. Arguments go to all (-k judge); what the machines have to say comes last.
# What failed in that crowd, if it is little, is run once more, alone: a starved test passes then, and is named all the
# same; a fault fails again.
# Who names a file, or a mark (-m 'not vm'), gets just that, one after the other.
set -uo pipefail
cd "$(dirname "$0")/.."

pytest() { .venv/bin/python -m pytest --durations=10 --durations-min=5 "$@"; }
FAILED=1 NONE=5  # pytest's exit codes: some tests failed; -k and the like leave no test
LITTLE=3         # more is no accident

for word in "$@"; do
    [[ $word == -m* || -e ${word%%::*} ]] && exec .venv/bin/python -m pytest "$@"
done

storms=()
for room in machine leaks limits workers healthy crash stopped actions service; do
    storms+=("tests/vm/test_$room.py")
done
others=(-m vm "${storms[@]/#/--ignore=}")

own=$(mktemp -d)
trap 'rm -rf "$own"' EXIT
mkdir "$own/tmp"
lane() { local name=$1; shift; pytest -o cache_dir="$own/$name.cache" "$@"; }
again() { # LANE CODE ARGUMENTS...: its exit code, after a second go where that may help
    local name=$1 code=$2 failed
    shift 2
    failed=$(grep -c :: "$own/$name.cache/v/cache/lastfailed" 2>/dev/null)
    [[ $code -eq $FAILED && $failed -gt 0 && $failed -le $LITTLE ]] || return "$code"
    printf '\n==== failed beside the others, and once more, alone: %d\n' "$failed"
    grep :: "$own/$name.cache/v/cache/lastfailed"
    lane "$name" --last-failed "$@"
}

lane storms "${storms[@]}" "$@" >"$own/storms" 2>&1 </dev/null &
first=$!
trap 'kill $first 2>/dev/null; rm -rf "$own"' INT TERM
lane here -m 'not vm' "$@"
here=$?
TMPDIR=$own/tmp lane others "${others[@]}" "$@" >"$own/others" 2>&1 </dev/null
rest=$?
wait $first
storm=$?
cat "$own/others" "$own/storms"
again here $here -m 'not vm' "$@" </dev/null
here=$?
again others $rest "${others[@]}" "$@" </dev/null
rest=$?
again storms $storm "${storms[@]}" "$@" </dev/null
storm=$?

worst=$NONE
for code in $here $rest $storm; do
    [[ $code -eq $NONE ]] && continue
    [[ $worst -eq $NONE || $worst -eq 0 ]] && worst=$code
done
exit $worst

#!/bin/bash
# Gathers in ./wheels (or WHEELS) all that `make install` needs on a machine without network: oomguard and what it runs
# on, for the Pythons named in PYTHONS on this machine's architecture; and pip with the build backend, for those who
# would rather use pip.
#
# The wheels of others are fetched again only when pyproject.toml, PYTHONS or EXTRAS changed; our own is built whenever
# the sources did.
set -euo pipefail
cd "$(dirname "$0")/.."

wheels=${WHEELS:-wheels}
extras=${EXTRAS:-}
pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet)
mkdir -p "$wheels"
exec 9>"$wheels/.lock"
flock 9

if ! .venv/bin/python tools/wheel_is_current.py "$wheels"; then
    echo "building oomguard's own wheel ..."
    rm -rf build "$wheels/.new"  # build/ would bring deleted files back
    "${pip[@]}" wheel --no-deps --wheel-dir "$wheels/.new" . </dev/null
    new=("$wheels"/.new/oomguard-*.whl)
    find "$wheels" -maxdepth 1 -name 'oomguard-*.whl' ! -name "${new[0]##*/}" -delete
    mv -f "${new[0]}" "$wheels"  # in one step: somebody may be reading it
    rmdir "$wheels/.new"
fi
own=$(ls "$wheels"/oomguard-*.whl)

versions=$(tr -s ' ' '\n' <<<"$PYTHONS" | sort -uV | xargs)
asked="$versions [$extras] $(sha256sum < pyproject.toml)"
if [[ $(cat "$wheels/.gathered" 2>/dev/null) != "$asked" ]]; then
    find "$wheels" -name '*.whl' ! -name 'oomguard-*' -delete
    platforms=()
    for glibc in manylinux_2_34 manylinux_2_31 manylinux_2_28 manylinux_2_17 manylinux2014; do
        platforms+=(--platform "${glibc}_$(uname -m)")
    done
    for version in $versions; do
        echo "gathering wheels for Python $version ..."
        "${pip[@]}" download --dest "$wheels" --only-binary=:all: --implementation cp --python-version "$version" \
            "${platforms[@]}" "$own${extras:+[$extras]}" pip 'setuptools>=77' </dev/null
    done
    echo "$asked" > "$wheels/.gathered"
fi
echo "$wheels: $(find "$wheels" -name '*.whl' | wc -l) wheels, $(du -sh "$wheels" | cut -f1)"

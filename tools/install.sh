#!/bin/bash
# make install: oomguard as a system service, in an environment of its own, neither enabled nor started.
#
# From the environment: prefix, sysconfdir, DESTDIR, PYTHON, WHEELS, EXTRAS. Installing again is upgrading: the new
# environment is made complete beside the old one before it takes its place, and an edited configuration stays.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/places.sh

say() { echo "oomguard: $*"; }
die() { echo "oomguard: $*" >&2; exit 3; }

# -- the Python that the service runs under ---------------------------------------------------------------------------

# Not the first one on PATH: that may be one of a home directory, which the service cannot see.
choose_python() {
    python=${PYTHON:-/usr/bin/python3}
    command -v "$python" >/dev/null || python=python3
    PYTHON=$python tools/prepare.sh "$1"
    case $(readlink -f "$(command -v "$python")") in
        /home/*|/root/*) say "warning: $python is in a home directory, which the service cannot see (ProtectHome=)" ;;
    esac
}

# -- the environment --------------------------------------------------------------------------------------------------

# Wheels that were gathered are used when they suffice; the network only when there are none.
make_environment() {
    local wheels=${WHEELS:-}
    [[ -z $wheels && -d wheels ]] && wheels=wheels
    if [[ -n $wheels ]]; then
        choose_python bare_python
        say "installing from $wheels ..."
        "$python" -m venv --without-pip "$new"
        "$new/bin/python" -B tools/unpack_wheels.py "$wheels" "$new"/lib/python3*/site-packages ${EXTRAS//,/ } && return
        [[ -n ${WHEELS:-} ]] && die "gather what is missing with 'make wheels' on a machine with network"
        say "$wheels does not suffice: trying the network"
        rm -rf "$new"
    fi
    choose_python python
    say "downloading what it runs on ..."
    "$python" -m venv "$new"
    rm -rf build  # of an earlier build from source: it would bring deleted files back
    # --no-compile: the byte code is made below, at once and only where it is needed.
    "$new/bin/python" -m pip install --disable-pip-version-check --quiet --no-input --no-compile \
        ".${EXTRAS:+[$EXTRAS]}" </dev/null ||
        die "pip failed; on a machine without network, run 'make wheels' elsewhere and copy ./wheels here"
}

# What pip and venv leave that nobody needs here: scripts of other packages, activate, pip itself.
strip_environment() {
    find "$new/bin" -mindepth 1 ! -name 'python*' -delete
    rm -rf "$new"/lib/python3*/site-packages/{pip,pip-*,setuptools,setuptools-*,_distutils_hack,pkg_resources} "$new/include"
    rm -f "$new"/lib/python3*/site-packages/distutils-precedence.pth
    sed -i '/^command = /d' "$new/pyvenv.cfg"
}

write_launcher() {
    # -I: nothing of the caller's PYTHON* variables or home directory in a privileged tool; -B: nothing is written; -S:
    # what site would find is the one directory below, and looking for it takes longer than an undo after a crash.
    local packages=("$new"/lib/python3*/site-packages)
    cat > "$new/bin/oomguard" <<EOF
#!$libdir/venv/bin/python -ISB
import sys

sys.path.append(sys.executable.removesuffix("bin/python") + "${packages[0]#"$new/"}")
from oomguard.cli.main import main

sys.exit(main())
EOF
    chmod 0755 "$new/bin/oomguard"
}

# All byte code is made now: the service cannot write there, and should not spend memory on compiling when it is short.
# Left out is what nobody here ever imports.
compile_environment() {
    "$new/bin/python" -m compileall -q -s "$new" -p "$libdir/venv" \
        -x '/(pygments/(lexers|styles|formatters|filters)/[a-z]|pydantic/(v1|deprecated)/|psutil/(tests/|_ps(aix|bsd|osx|sunos|windows)))' \
        "$new"/lib/python3*/site-packages
}

# -- files ------------------------------------------------------------------------------------------------------------

units=(oomguard.service oomguard-exporter.service oomguard-exporter.socket)

put() {  # put MODE SOURCE TARGET: with our own places in place of the default ones
    install -d "$(dirname "$DESTDIR$3")"
    sed -e "s#/usr/local/bin/oomguard#$bindir/oomguard#g" -e "s#/usr/local/share/doc/oomguard#$docdir#g" \
        -e "s#/etc/oomguard/#$confdir/#g" "$2" > "$DESTDIR$3.tmp"
    chmod "$1" "$DESTDIR$3.tmp"
    mv -f "$DESTDIR$3.tmp" "$DESTDIR$3"
}

put_configuration() {
    local there=$DESTDIR$confdir/oomguard.toml pristine=$DESTDIR$sharedir/oomguard.toml
    install -d -m 0755 "$DESTDIR$confdir" "$DESTDIR$confdir/conf.d" "$DESTDIR$sharedir"
    if [[ ! -e $there ]] || cmp -s "$there" "$pristine"; then  # none yet, or as we put it there
        install -m 0644 etc/oomguard.toml "$there"
        rm -f "$there.new"
    elif ! cmp -s "$there" etc/oomguard.toml; then
        install -m 0644 etc/oomguard.toml "$there.new"
        say "$confdir/oomguard.toml was edited and stays; the new default is beside it, oomguard.toml.new"
    fi
    install -m 0644 etc/oomguard.toml "$pristine"
}

# An older systemd would only complain of it. Into a package it goes in any case.
put_drop_in() {
    local version=254
    [[ -n $DESTDIR ]] || version=$(systemctl --version 2>/dev/null | awk 'NR == 1 { print $2 }')
    [[ ${version:-0} -ge 254 ]] || return 0
    local dir
    for dir in "$unitdir" "${unitdir%/system}/user"; do
        put 0644 systemd/oomguard.keep.conf "$dir/oomguard.service.d/keep.conf"
    done
}

put_files() {
    install -d "$DESTDIR$bindir" "$DESTDIR$docdir/docs"
    ln -sfn "$libdir/venv/bin/oomguard" "$DESTDIR$bindir/oomguard"
    local unit
    for unit in "${units[@]}"; do put 0644 "systemd/$unit" "$unitdir/$unit"; done
    put 0644 systemd/user/oomguard.service "${unitdir%/system}/user/oomguard.service"
    put 0644 systemd/notify.conf "$sharedir/notify.conf"  # for those who want it, as a drop-in
    put 0644 systemd/oomguard.sysusers "$sysusersdir/oomguard.conf"
    put 0644 systemd/oomguard.catalog "$catalogdir/oomguard.catalog"
    put_drop_in
    put_configuration
    install -m 0644 README.md CHANGELOG.md CONTRIBUTING.md LICENSE "$DESTDIR$docdir"  # as in the checkout: links hold
    install -m 0644 docs/*.md "$DESTDIR$docdir/docs"
    install -d "$DESTDIR$docdir/etc/examples"
    install -m 0644 etc/examples/*.toml "$DESTDIR$docdir/etc/examples"
    install -d "$DESTDIR$docdir/etc/prometheus" "$DESTDIR$docdir/etc/grafana"
    install -m 0644 etc/prometheus/*.yml "$DESTDIR$docdir/etc/prometheus"
    install -m 0644 etc/grafana/*.json "$DESTDIR$docdir/etc/grafana"
    # What is made of the program is made by the very version that was installed: man pages, completions, the schema.
    "$DESTDIR$libdir/venv/bin/python" -IB -m oomguard manual "$DESTDIR$prefix/share" "${units[@]/#/--unit=$DESTDIR$unitdir/}"
}

# -- the running system -----------------------------------------------------------------------------------------------

tell_system() {
    if command -v systemd-sysusers >/dev/null; then
        systemd-sysusers "$sysusersdir/oomguard.conf"
    elif ! getent group oomguard >/dev/null; then
        groupadd --system oomguard
    fi
    if command -v journalctl >/dev/null; then journalctl --update-catalog; fi
    if [[ -d /run/systemd/system ]]; then systemctl daemon-reload; fi
}

say_what_next() {
    if [[ ! -d /run/systemd/system ]]; then
        say "installed. This machine was not booted with systemd: start it with  $bindir/oomguard run"
        return
    fi
    if systemctl --quiet is-active oomguard.service; then
        say "installed. The old version still runs; the new one takes over with  systemctl restart oomguard.service"
    else
        say "installed, neither enabled nor started. To do both:  systemctl enable --now oomguard.service"
    fi
    local others=() other
    for other in earlyoom nohang nohang-desktop systemd-oomd oomd bustd; do
        if systemctl --quiet is-active "$other.service"; then others+=("$other.service"); fi
    done
    # Its socket would start it again.
    [[ " ${others[*]-} " != *" systemd-oomd.service "* ]] || others+=(systemd-oomd.socket)
    [[ ${#others[@]} -eq 0 ]] ||
        say "${others[*]} is active: two guards kill twice. To leave it to oomguard:  systemctl disable --now ${others[*]}"
}

[[ -n $DESTDIR || $EUID -eq 0 ]] || die "make install needs root (or DESTDIR=... to look at what it would put where)"
[[ -f etc/oomguard.toml ]] || die "etc/oomguard.toml is not here: this is not a complete checkout"

new=$DESTDIR$libdir/venv.new
rm -rf "$new"
mkdir -p "$DESTDIR$libdir"
trap 'rm -rf "$new"' EXIT
make_environment
strip_environment
write_launcher
compile_environment
rm -rf "$DESTDIR$libdir/venv"
mv "$new" "$DESTDIR$libdir/venv"
put_files
if [[ -z $DESTDIR ]]; then
    tell_system
    say_what_next
fi

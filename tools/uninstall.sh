#!/bin/bash
# make uninstall: removes what make install put there, and says what it left: edited configuration, incidents, the group.
#
# From the environment: prefix, sysconfdir, DESTDIR, as they were given to make install.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/places.sh

say() { echo "oomguard: $*"; }
left=()

# Without its unit a running service could not undo what it has lent out: it is for its administrator to stop it.
refuse_while_in_use() {
    [[ -z $DESTDIR && -d /run/systemd/system ]] || return 0
    local unit
    for unit in oomguard-exporter.socket oomguard.service; do  # the exporter's service stops with its socket
        if systemctl --quiet is-active "$unit" || systemctl --quiet is-enabled "$unit" 2>/dev/null; then
            say "still running or enabled. First:  systemctl disable --now $unit" >&2
            exit 1
        fi
    done
}

remove_configuration() {
    local there=$DESTDIR$confdir/oomguard.toml
    if cmp -s "$there" "$DESTDIR$sharedir/oomguard.toml"; then rm -f "$there"; fi
    rm -f "$there.new"
    rmdir --ignore-fail-on-non-empty "$DESTDIR$confdir/conf.d" "$DESTDIR$confdir" 2>/dev/null || true
    if [[ -e $DESTDIR$confdir ]]; then left+=("$confdir (edited)"); fi
}

remove_files() {
    rm -f "$DESTDIR$unitdir/oomguard.service" "$DESTDIR$unitdir"/oomguard-exporter.{service,socket}
    rm -f "$DESTDIR${unitdir%/system}/user/oomguard.service"
    rm -f "$DESTDIR$sysusersdir/oomguard.conf" "$DESTDIR$catalogdir/oomguard.catalog"
    local dir
    for dir in "$unitdir" "${unitdir%/system}/user"; do
        rm -f "$DESTDIR$dir/oomguard.service.d/keep.conf"
        rmdir "$DESTDIR$dir/oomguard.service.d" 2>/dev/null || true  # an administrator may have others there
    done
    if [[ $(readlink "$DESTDIR$bindir/oomguard") == "$libdir/venv/bin/oomguard" ]]; then rm -f "$DESTDIR$bindir/oomguard"; fi
    rm -rf "$DESTDIR$libdir" "$DESTDIR$docdir" "$DESTDIR$sharedir"
    local place
    for place in "${made[@]}"; do
        rm -f "$DESTDIR$prefix/share/$place"
        # Not share/man itself: that is the distribution's, and /usr/local/man leads there.
        rmdir "$DESTDIR$prefix/share/${place%/*}" 2>/dev/null || true
        [[ $place == man/* ]] || rmdir "$DESTDIR$prefix/share/${place%%/*}" 2>/dev/null || true
    done
    for place in system user catalog ''; do  # what would not be there without us
        rmdir "$DESTDIR$prefix/lib/systemd/$place" 2>/dev/null || true
    done
    rmdir "$DESTDIR$prefix/lib/sysusers.d" 2>/dev/null || true
}

tell_system() {
    if command -v journalctl >/dev/null; then journalctl --update-catalog; fi
    if [[ -d /run/systemd/system ]]; then systemctl daemon-reload; fi
    if [[ -d $statedir ]]; then left+=("$statedir (incidents)"); fi
    if getent group oomguard >/dev/null; then left+=("the group oomguard"); fi
}

[[ -n $DESTDIR || $EUID -eq 0 ]] || { say "make uninstall needs root" >&2; exit 3; }
refuse_while_in_use
remove_configuration
remove_files
[[ -n $DESTDIR ]] || tell_system
if [[ ${#left[@]} -eq 0 ]]; then
    say "removed"
else
    printf -v list ', %s' "${left[@]}"
    say "removed. Left, since it is yours: ${list:2}"
fi

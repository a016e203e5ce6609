# Where everything goes: the one list that install.sh and uninstall.sh share. Sourced, with prefix, sysconfdir and
# DESTDIR in the environment; every place is without DESTDIR.
libdir=$prefix/lib/oomguard  # the private environment
bindir=$prefix/bin
docdir=$prefix/share/doc/oomguard
sharedir=$prefix/share/oomguard  # the default configuration as it was installed, to tell whether it was edited
confdir=$sysconfdir/oomguard
statedir=/var/lib/oomguard

case $prefix in
    /usr|/usr/local)  # systemd looks into both by itself
        unitdir=$prefix/lib/systemd/system
        catalogdir=$prefix/lib/systemd/catalog
        sysusersdir=$prefix/lib/sysusers.d
        ;;
    *)
        unitdir=/etc/systemd/system
        catalogdir=/usr/lib/systemd/catalog
        sysusersdir=/etc/sysusers.d
        ;;
esac

# Where everything goes: the one list that install.sh and uninstall.sh share. Sourced, with prefix, sysconfdir and
# DESTDIR in the environment; every place is without DESTDIR.
libdir=$prefix/lib/oomguard  # the private environment
bindir=$prefix/bin
docdir=$prefix/share/doc/oomguard
sharedir=$prefix/share/oomguard  # the default configuration as it was installed, to tell whether it was edited
# What `oomguard manual` puts into $prefix/share, besides the schema: where man, bash, zsh and fish look by themselves.
made=(
    man/man1/oomguard.1 man/man5/oomguard.toml.5 man/man8/oomguard.service.8
    bash-completion/completions/oomguard zsh/site-functions/_oomguard fish/vendor_completions.d/oomguard.fish
)
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

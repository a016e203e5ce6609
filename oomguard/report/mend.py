"""What to do about each thing that is degraded: one line with the command. What is degraded is told by the daemon."""

from fnmatch import fnmatchcase

_EDIT = "systemctl edit oomguard: [Service] {}; then systemctl restart oomguard"
_CGROUP2 = "boot with systemd.unified_cgroup_hierarchy=1; cat /sys/fs/cgroup/cgroup.controllers shows memory then"
_PSI = "boot with psi=1; cat /proc/pressure/memory works then (a kernel with CONFIG_PSI)"
_INOTIFY = "sysctl fs.inotify.max_user_watches=1048576 fs.inotify.max_user_instances=1024; then restart oomguard"
_COUNTED = "boot without cgroup_disable=memory; cat /sys/fs/cgroup/cgroup.controllers shows memory then"
_CHECK = "oomguard check"
_FILTER = "systemctl cat oomguard shows what SystemCallFilter= forbids"
_JOURNAL = "journalctl -u oomguard -b"

# (what, a part of why or "", what to do); the first that matches. {what}, {name}: its last word, {path}: of the why.
_MENDS = (
    ("*", "cgroup v1", _CGROUP2),
    ("user namespace", "", "guard what is inside; the machine is guarded by an oomguard outside of the container"),
    ("CAP_*", "", _EDIT.format("CapabilityBoundingSet={what}") + "; by hand: run it as root"),
    ("real time", "", _EDIT.format("CapabilityBoundingSet=CAP_SYS_NICE") + "; by hand: run it as root"),
    ("memory lock", "", _EDIT.format("LimitMEMLOCK=infinity") + "; by hand: ulimit -l unlimited"),
    ("oom_score_adj", "", _EDIT.format("OOMScoreAdjust=-1000") + "; by hand: run it as root"),
    ("insurance", "", _EDIT.format("CapabilityBoundingSet=CAP_SYS_RESOURCE CAP_DAC_OVERRIDE")),
    ("memory.*", "", "ls -l {path}; " + _EDIT.format("CapabilityBoundingSet=CAP_DAC_OVERRIDE")),
    ("cgroup.freeze", "", "ls -l {path}; " + _EDIT.format("CapabilityBoundingSet=CAP_DAC_OVERRIDE")),
    ("cgroups", "RLIMIT_NOFILE", _EDIT.format("LimitNOFILE=524288")),
    ("cgroups", "inotify", _INOTIFY),
    ("cgroups", "", _COUNTED),
    ("limits", "", _INOTIFY),
    ("psi", "", _PSI),
    ("stall_above", "No such file", _PSI),
    ("stall_above", "not supported", _PSI),
    ("stall_above", "", _EDIT.format("CapabilityBoundingSet=CAP_SYS_RESOURCE") + "; and see cat /proc/pressure/memory"),
    ("level_above", "", "ls -l {path}; " + _EDIT.format("CapabilityBoundingSet=CAP_DAC_OVERRIDE")),
    ("incidents", "", "ls -ld {path}; systemctl restart oomguard makes it anew (StateDirectory=oomguard)"),
    ("leases", "", "ls -ld {path}; systemctl restart oomguard makes it anew (RuntimeDirectory=oomguard)"),
    ("reading", "", "cat {path}; " + _JOURNAL),
    ("reclaim", "", "uname -r: Linux 5.19 has it; else take reclaim out of the policy: oomguard check"),
    ("kill", "", "uname -r: Linux 5.14 has it; until then nothing is to be done, it takes a moment longer"),
    ("units", "", "systemctl is-system-running; " + _JOURNAL),
    ("hook *", "", "ls -l {name}: install it and make it executable, or take it out of the policy: oomguard check"),
    ("pidfd_*", "", "uname -r: Linux 5.3 has it; " + _FILTER),
    ("process_mrelease", "", "uname -r: Linux 5.15 has it; " + _FILTER),
    ("pressure", "", "ls -ld {path}; " + _JOURNAL + "; systemctl restart oomguard"),
    ("core", "", "oomguard incidents show last; " + _JOURNAL),
    ("reaper", "", _JOURNAL + "; systemctl restart oomguard"),
    ("scribe", "", _JOURNAL + "; systemctl restart oomguard"),
    ("herald", "", _JOURNAL + "; systemctl restart oomguard"),
    ("runner", "", _JOURNAL + "; systemctl restart oomguard"),
    ("broker", "", _JOURNAL + "; systemctl restart oomguard"),
    ("sender", "", _JOURNAL + "; systemctl restart oomguard"),
    ("desktop", "", _JOURNAL + "; systemctl restart oomguard"),
    ("sink *", "no network", "docs/policies.md, Telling people: notify.conf opens it; then oomguard notify-test"),
    ("sink *", "not installed", "make install EXTRAS=notify; then systemctl restart oomguard"),
    ("sink *", "", "oomguard notify-test tries it and says what is wrong; " + _JOURNAL),
    ("budget of *", "", "oomguard incidents list shows what it was spent on, oomguard show how large it is"),
    ("daemon", "", "systemctl restart oomguard"),
    ("reload", "", "oomguard check; then systemctl reload oomguard"),
    ("policy *", "no cgroup", "systemd-cgls shows their names; " + _CHECK),
    ("policy *", "memory.max", "systemctl set-property UNIT MemoryMax=; then systemctl reload oomguard"),
    ("policy *", "no swap", "swapon --show; else take it out of the policy: " + _CHECK),
    ("policy *", "pressure", _PSI),
    ("policy *", "", _CHECK + " has the line and a hint; then systemctl reload oomguard"),
)  # fmt: skip


def mend(what: str, why: str) -> str:
    """What to do about it; where nothing better is known, where to read on."""
    for pattern, part, words in _MENDS:
        if fnmatchcase(what, pattern) and part in why:
            path = next((word.rstrip(":") for word in why.split() if word.startswith("/")), "/run/oomguard")
            return words.format(what=what, name=what.rpartition(" ")[2], path=path)
    return _JOURNAL


def is_known(what: str) -> bool:
    """Whether there is more to say than where to read on."""
    return any(fnmatchcase(what, pattern) for pattern, _, _ in _MENDS)

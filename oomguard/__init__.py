"""oomguard: acts before the kernel's OOM killer does, and can explain afterwards what happened and why."""

__version__ = "0.1.0"

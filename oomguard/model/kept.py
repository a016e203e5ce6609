"""The plan in force as it lies in the runtime directory: what it was compiled from, and the plan as JSON.

One line goes before the plan: a digest of everything that it depends upon (``cli.origin``), and one of the plan's own
bytes, so that half a file, or somebody's notes, are never taken for a plan. Nothing slow is imported here.
"""

try:
    from _blake2 import blake2b  # hashlib loads OpenSSL first: 3 ms, and 60 of an emulated machine
except ImportError:  # pragma: no cover - a Python that is built otherwise
    from hashlib import blake2b

NAME = "plan"
RUNTIME_DIR = "/run/oomguard"  # where it is unless the policy says otherwise
_MAGIC = b"oomguard plan 1"
_UNKNOWN = b"-"


def digest(content: bytes) -> str:
    """Of 256 bits, in hexadecimal."""
    return blake2b(content, digest_size=32).hexdigest()


def wrapped(made_from: str, plan: bytes) -> bytes:
    """The file's content. Without ``made_from`` the plan is not to be used again but in place of a wrong one."""
    return b"%s %s %s\n%s" % (_MAGIC, made_from.encode("ascii") or _UNKNOWN, digest(plan).encode("ascii"), plan)


def unwrapped(content: bytes) -> tuple[str, bytes]:
    """(made_from, plan). ValueError: not a kept plan, or not whole."""
    head, _, plan = content.partition(b"\n")
    magic, _, rest = head.rpartition(b" ")[0].rpartition(b" ")
    if magic != _MAGIC:
        raise ValueError("it is not a kept plan")
    if head.rpartition(b" ")[2] != digest(plan).encode("ascii"):
        raise ValueError("it is not whole")
    return "" if rest == _UNKNOWN else rest.decode("ascii"), plan

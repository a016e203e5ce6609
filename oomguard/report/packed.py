"""zstd: Python's own from 3.14 on, and the package that is its backport before."""

import sys
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"\x28\xb5\x2f\xfd"


def reading(path: Any) -> Any:
    """The content of a packed file. Raises OSError; ``Error`` while reading what is not whole."""
    return zstd.open(path, "rb")


def writing(target: Any, level: int = 10) -> Any:
    """A file to write into; it is packed on its way. Close it, or the end is missing."""
    return zstd.open(target, "wb", level=level)


Error = zstd.ZstdError

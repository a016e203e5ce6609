"""Is there exactly one oomguard wheel in this directory, and does it hold the package as the checkout has it?

Compares contents, since times do not survive every way of copying a tree. Exit code 0: yes; 1: no.
"""

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def is_current(wheels: Path) -> bool:
    """Same files, same bytes, same version. Byte code is not part of a wheel."""
    found = list(wheels.glob("oomguard-*.whl"))
    if len(found) != 1:
        return False
    tree = {
        str(path.relative_to(ROOT)): path
        for path in (ROOT / "oomguard").rglob("*")
        if path.is_file() and path.suffix != ".pyc" and not path.name.startswith(".")
    }
    with zipfile.ZipFile(found[0]) as wheel:
        packed = {name for name in wheel.namelist() if name.startswith("oomguard/")}
        return packed == set(tree) and all(wheel.read(name) == path.read_bytes() for name, path in tree.items())


if __name__ == "__main__":
    sys.exit(not is_current(Path(sys.argv[1])))

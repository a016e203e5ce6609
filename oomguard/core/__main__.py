"""``python oomguard/core/__main__.py --plan-fd N``: how ``oomguard run`` becomes the core, by exec.

Run as a file and without site (-S), so that nothing but the standard library and this package is ever importable.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from oomguard.core import lean

    lean.install()  # before anything else is imported
    from oomguard.core.boot import main

    sys.exit(main(sys.argv[1:]))

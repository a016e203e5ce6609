"""docs/example-incident.html and its picture in the README: drawn from docs/example-incident.tar.zst.

python -m tests.report.example        # draws both anew, when the report looks otherwise
python -m tests.vm.example            # puts a machine through that storm once more, and draws what it wrote
"""

from __future__ import annotations

import re
import tarfile
import tempfile
from pathlib import Path

from oomguard.report import packed, page, store

from .browser import Browser

DOCS = Path(__file__).parents[2] / "docs"
PACKED = DOCS / "example-incident.tar.zst"
DRAWN = DOCS / "example-incident.html"
PICTURE = DOCS / "example-incident.png"
SIZE = (1060, 1250)  # of the picture: what happened, what to try, and all of it over time
# Of the page: what another version of plotly draws otherwise, and what is another one each time.
_NOT_OURS = re.compile(r'<script type="[a-z/]+" id="[a-z-]+">.*?</script>|nonce-?="?[\w-]+|nonce-[\w-]+', re.DOTALL)


def drawn() -> str:
    """The report as of today."""
    with tempfile.TemporaryDirectory() as place:
        with packed.reading(PACKED) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
            tar.extractall(place, filter="data")
        (directory,) = Path(place).iterdir()
        return page.page(store.load_file(directory), directory)


def ours(text: str) -> str:
    """Without what may differ though the report does not."""
    return _NOT_OURS.sub("", text)


def main() -> None:
    DRAWN.write_text(drawn())
    browser = Browser()
    try:
        browser.look(DRAWN, SIZE[0], "light")
        browser.picture(PICTURE, SIZE)
    finally:
        browser.close()


if __name__ == "__main__":
    main()

"""An incident as one HTML file that needs nothing else: no network, no server, no other file.

All text is there without JavaScript. The two pictures are plotly's; plotly.js is in the file, compressed, since its
smaller bundles have no treemap and are in no Python package: 1.9 MB in place of 4.8. A content security policy lets
nothing run but the page's own scripts, whatever a process was called.
"""

import base64
import gzip
import json
import secrets
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import jinja2
from plotly.offline import get_plotlyjs

from . import kernelword, pictures, series, whose
from .advice import advise
from .text import aftermath, sentence, under, verdict
from .words import duration, printable, size

_HERE: Final = Path(__file__).parent
_RAW_MAX: Final = 64 << 10  # of one file; whoever needs the rest has the directory
_ROWS: Final = 40  # of the process table before the rest is folded away
_STAGES: Final = ("soft", "hard", "late", "gone", "after", "close")


def page(incident: Mapping[str, Any], directory: Path | None = None) -> str:
    """The file's text. ``directory``: where ``raw/`` lies; None: without it. Raises OSError for what cannot be read."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size, "duration": duration, "plain": printable}
    figures = {"over-time": pictures.over_time(incident), "by-owner": pictures.by_owner(incident)}
    return environment.get_template("page.html.j2").render(
        it=incident,
        sentence=sentence(dict(incident)),
        helped=verdict(dict(incident)),
        under=under(dict(incident)),
        aftermath=aftermath(dict(incident)),
        advice=advise(incident),
        processes=series.processes(incident),
        cmdlines=incident["evidence"].get("cmdlines", {}),
        first_rows=_ROWS,
        victims={victim["pid"] for victim in incident["victims"]},
        ranked=_ranked(incident),
        figures={name: _script(figure.to_json()) for name, figure in figures.items() if figure is not None},
        owners=figures["by-owner"] is not None,
        account=(told := whose.account(incident)),
        swap=whose.swap(told) if told is not None else [],
        kernel=[(list(kernelword.sentences(it)), it["tasks"]) for it in incident.get("kernel_reports", ())],
        raw=list(_raw(directory)) if directory is not None else [],
        plotly=_plotly(),
        nonce=secrets.token_urlsafe(16),
        css=(_HERE / "page.css").read_text(),
        js=(_HERE / "page.js").read_text(),
    )


def _ranked(incident: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    ranking = incident["ranking"]
    candidates = ranking["candidates"] if ranking else []
    return sorted(candidates, key=lambda it: (it["rank"] == 0, it["rank"], -it["held_bytes"]))


def _script(text: str) -> str:
    """JSON within a script element: nothing in it may end that element, or begin a comment."""
    safe = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    json.loads(safe)
    return safe


def _raw(directory: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(stage, its files with their text), in the order in which the stages were."""
    stages = sorted(
        (path for path in (directory / "raw").glob("*") if path.is_dir()),
        key=lambda path: (_STAGES.index(path.name) if path.name in _STAGES else 99, path.name),
    )
    for stage in stages:
        yield stage.name, [(path.name, _text(path)) for path in sorted(stage.iterdir()) if path.is_file()]


def _text(path: Path) -> str:
    data = path.read_bytes()
    text = data[:_RAW_MAX].decode("utf-8", "backslashreplace").replace("\0", " ")
    text = "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text)
    return text + (f"\n... {len(data) - _RAW_MAX} bytes more" if len(data) > _RAW_MAX else "")


@lru_cache(maxsize=1)
def _plotly() -> str:
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode("ascii")

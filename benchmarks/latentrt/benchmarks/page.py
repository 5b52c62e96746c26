"""An HTML page in one file, for light and dark screens: tables, images and matplotlib's plots."""

from __future__ import annotations

import base64
import importlib
import importlib.util
import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any, Final

from latentrt.bundle.errors import Unavailable

GREY: Final = "#7d8590"
"""Legible on white and on black."""
COLOURS: Final = ("#3b82d6", "#d9682b", "#22936a", "#a98200", "#8a63d2", "#c8507f")
"""Of lines and bars, in their order."""

_PLOTS: Final[dict[str, Any]] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), GREY),
    **dict.fromkeys(("xtick.color", "ytick.color", "grid.color"), GREY),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "font.size": 9,
    "grid.alpha": 0.3,
    "svg.fonttype": "none",  # text in the reader's own sans serif
    "svg.hashsalt": "latentrt",  # equal plots are equal files
}
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #16191d; --soft: #5c6470; --line: #d9dde3; --page: #fff;
  --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a0a8b4; --line: #3a4048;
  --page: #16191d; --bad: #ff8a80; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 74rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin-bottom: .3rem; }
p { max-width: 46rem; } .soft, figcaption { color: var(--soft); }
.bad { color: var(--bad); font-weight: 600; }
.wide, pre { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; }
figure { margin: 0; } img { width: 100%; display: block; margin-bottom: .4rem; }
.images { display: flex; flex-wrap: wrap; gap: 1rem; } .images figure { width: 13rem; }
.images img { outline: 1px solid var(--line); } .plot { background: white; }
svg { width: 100%; height: auto; display: block; }
details { margin: .6rem 0; } summary { cursor: pointer; }
"""


def document(title: str, body: Iterable[str]) -> str:
    """A page: its title, which is text, above parts that are HTML."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *body,
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text; `kind` is a class of the style sheet: "soft" or "bad"."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def bad(text: str) -> str:
    """Plain text in the colour of a fault."""
    return f'<span class="bad">{escape(text)}</span>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table: headings are plain text, cells are HTML."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'


def folded(name: str, content: str) -> str:
    """HTML that a click on the name shows."""
    return f"<details><summary>{escape(name)}</summary>{content}</details>"


def image(content: bytes, description: str, kind: str = "png") -> str:
    """An image file inside the page; `kind` is "png" or "svg+xml"."""
    encoded = base64.b64encode(content).decode()
    return f'<img alt="{escape(description)}" src="data:image/{kind};base64,{encoded}">'


def plot(
    draw: Callable[[Any], None], description: str, size: tuple[float, float] = (9.0, 3.2)
) -> str:
    """What `draw` draws on a matplotlib figure of this size in inches, inside the page."""
    return f"<figure>{image(drawn(draw, size), description, 'svg+xml')}</figure>"


def drawn(draw: Callable[[Any], None], size: tuple[float, float], form: str = "svg") -> bytes:
    """What `draw` draws on a matplotlib figure, as an "svg" or "png" file.

    An SVG is transparent, for light and dark pages. Raises `Unavailable` without matplotlib.
    """
    check_matplotlib()
    matplotlib: Any = importlib.import_module("matplotlib")
    figures: Any = importlib.import_module("matplotlib.figure")
    content = io.BytesIO()
    with matplotlib.rc_context(_PLOTS):
        figure = figures.Figure(figsize=size, layout="constrained")
        draw(figure)
        names = ("Creator", "Date", "Format", "Type") if form == "svg" else ()
        figure.savefig(
            content,
            format=form,
            dpi=150,
            transparent=form == "svg",
            metadata=dict.fromkeys(names),  # no date, and no address of another site
        )
    return content.getvalue()


def check_matplotlib() -> None:
    """Raise `Unavailable` where matplotlib is not installed; does not load it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise Unavailable("matplotlib is not installed: pip install 'latentrt[bench]'")

"""HTML that needs nothing else: a page for light and dark screens, its tables, what folds away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #16191d; --soft: #5c6470; --line: #d9dde3; --page: #fff;
  --bad: #b3261e; --c0: #2a6fc9; --c1: #d9592b; --c2: #16855c; --c3: #a06f00; --c4: #7a4fc2;
  --c5: #b8387a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a0a8b4; --line: #3a4048;
  --page: #16191d; --bad: #ff8a80; --c0: #6aa9ff; --c1: #ff9166; --c2: #4ccf9b; --c3: #e8b84a;
  --c4: #b79aff; --c5: #ff8cc0; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 74rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin-bottom: .3rem; }
p { max-width: 46rem; } .soft, figcaption { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; }
.bad { color: var(--bad); font-weight: 600; }
svg { width: 100%; height: auto; display: block; } svg.key { width: 28px; height: 8px; }
.grid { stroke: var(--line); fill: none; } .axis { fill: var(--soft); font-size: 12px; }
.limit { stroke: var(--bad); stroke-dasharray: 2 3; fill: none; }
.series path, path.series { stroke: var(--c); stroke-width: 1.6; fill: none; }
.series circle { fill: var(--c); } .dashed path, path.dashed { stroke-dasharray: 5 4; }
.s0 { --c: var(--c0); } .s1 { --c: var(--c1); } .s2 { --c: var(--c2); } .s3 { --c: var(--c3); }
.s4 { --c: var(--c4); } .s5 { --c: var(--c5); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0; }
.legend li { display: flex; align-items: center; gap: .4rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; } .pictures figure { width: 13rem; }
figure { margin: 0; } .plot { background: white; }
img { width: 100%; display: block; margin-bottom: .4rem; outline: 1px solid var(--line); }
details { margin: .6rem 0; } summary { cursor: pointer; } pre { overflow-x: auto; }
"""


def document(title: str, body: Iterable[str]) -> str:
    """A page of these parts, which are HTML, below its title, which is not."""
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


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already, below headings that are not."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'


def folded(name: str, content: str) -> str:
    """Content, which is HTML, that a click on the name shows."""
    return f"<details><summary>{escape(name)}</summary>{content}</details>"

"""Files are UTF-8 whatever the locale is: no shipped line leaves the encoding to it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = (
    "bundle",
    "graphs",
    "weights",
    "engines",
    "runtime",
    "export",
    "benchmarks",
    "cli",
    "models",
)
FILES = sorted(path for room in SHIPPED for path in (ROOT / room).rglob("*.py"))


def left_to_the_locale(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that open, read or write text and name no encoding."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        places = {"read_text": 0, "write_text": 1}
        switches = [k for k in node.keywords if k.arg in ("text", "universal_newlines")]
        if (
            len(node.args) <= places.get(name, -1)
            or (name in ("open", "fdopen") and _as_text(node))
            or any(getattr(k.value, "value", None) is True for k in switches)
        ):
            yield node


def _as_text(node: ast.Call) -> bool:
    # The built-in's and fdopen's mode comes second; what else has an `open`, as a Path has, first.
    second = not isinstance(node.func, ast.Attribute) or node.func.attr == "fdopen"
    given = [k.value for k in node.keywords if k.arg == "mode"]
    given += node.args[1:2] if second else node.args[:1]
    modes = [m.value for m in given if isinstance(m, ast.Constant) and isinstance(m.value, str)]
    modes = [mode for mode in modes if mode and set(mode) <= set("rwxab+t")]
    return "b" not in modes[0] if modes else isinstance(node.func, ast.Name)


def test_every_text_file_is_opened_as_utf8() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for path in FILES
        for node in left_to_the_locale(ast.parse(path.read_text("utf-8")))
    ]
    assert len(FILES) > 100
    assert found == []


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ("path.read_text()", True),
        ("path.write_text(text)", True),
        ("open(path)", True),
        ("open(path, 'w')", True),
        ("path.open('a')", True),
        ("os.fdopen(3, 'w')", True),
        ("run(command, text=True)", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text(text, encoding='utf-8')", False),
        ("open(path, 'rb')", False),
        ("open(path, encoding='utf-8')", False),
        ("Bundle.open(path)", False),
        ("run(command, text=True, encoding='utf-8')", False),
        ("os.fdopen(3, 'wb')", False),
    ],
)
def test_a_line_that_leaves_the_encoding_to_the_locale_is_found(line: str, caught: bool) -> None:
    assert bool(list(left_to_the_locale(ast.parse(line)))) is caught

"""Generation parameters as text: what a web UI writes into its pictures, read and written.

Source: `create_infotext` and `parse_generation_parameters` of AUTOMATIC1111's web UI.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, cast

from PIL import Image

from latentrt.runtime.image import quoted

_NEGATIVE: Final = "Negative prompt:"
_FIELD: Final = re.compile(r'(\w[\w \-/]{0,63}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
"""A name and its value. Names are short: the time taken goes with the length of the text."""
_SIZE: Final = re.compile(r"(\d+)x(\d+)")
_FEWEST: Final = 3
"""Fields of a last line; with fewer it is part of the prompt."""
_LONGEST: Final = 1 << 20
"""Characters that are read."""
_EXIF, _USER_COMMENT = 0x8769, 0x9286
_CODES: Final[Mapping[bytes, str]] = {b"UNICODE\0": "utf-16-be", b"ASCII\0\0\0": "ascii"}


def parsed_infotext(text: str) -> dict[str, str]:
    """The fields by name, "Prompt" and "Negative prompt" among them; of a size both sides too."""
    *lines, last = text[:_LONGEST].strip().split("\n")
    found = {name.strip(): _unquoted(value) for name, value in _FIELD.findall(last)}
    if len(found) < _FEWEST:
        lines, found = [*lines, last], {}
    joined = "\n".join(lines)
    prompt, negative = joined, ""
    for begin in (0, *(m.end() for m in re.finditer("\n", joined))):
        if joined.startswith(_NEGATIVE, begin):
            prompt, negative = joined[:begin], joined[begin + len(_NEGATIVE) :]
            break
    result = {"Prompt": prompt.strip(), "Negative prompt": negative.strip(), **found}
    for name, value in found.items():
        size = _SIZE.fullmatch(value)
        if size is not None:
            result |= {f"{name}-1": size[1], f"{name}-2": size[2]}
            del result[name]
    return result


def written_infotext(prompt: str, negative: str, fields: Mapping[str, Any]) -> str:
    """The text of a picture's parameters; fields that are None are left out."""
    lines = [prompt, *([f"{_NEGATIVE} {negative}"] if negative else [])]
    last = ", ".join(f"{k}: {quoted(str(v))}" for k, v in fields.items() if v is not None)
    return "\n".join((*lines, last))


def picture_texts(picture: Image.Image) -> tuple[str, dict[str, str]]:
    """A picture's parameters, "" for none, and its other texts."""
    items = {
        name: value
        for name, value in picture.info.items()
        if isinstance(name, str) and isinstance(value, str)
    }
    text = items.pop("parameters", "")
    comment: object = cast("Any", picture.getexif()).get_ifd(_EXIF).get(_USER_COMMENT)
    if not text and isinstance(comment, bytes):
        code = _CODES.get(comment[:8])
        text = comment[8:].decode(code, "replace") if code else comment.decode("utf-8", "replace")
    return text, items


def _unquoted(text: str) -> str:
    text = text.strip()
    if not text.startswith('"'):
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text

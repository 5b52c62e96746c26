"""A small terminal for tests: what is on which row, and the pictures that are drawn there."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_TOKEN = re.compile(
    r"\x1b_G(?P<kitty>.*?)\x1b\\"
    r"|\x1b\]1337;File=(?P<iterm>.*?)\x07"
    r"|\x1bP(?P<sixel>.*?)\x1b\\"
    r"|\x1b\[(?P<csi>[?\d;]*[A-Za-z])"
    r"|\x1b(?P<escape>[78])"
    r"|(?P<control>[\r\n])"
    r"|(?P<text>[^\x1b\r\n]+)",
    re.DOTALL,
)


@dataclass
class Screen:
    """Follows a cursor as terminals do; scrolling is not followed, rows only grow."""

    rows: list[str] = field(default_factory=lambda: [""])
    pictures: list[tuple[int, Image.Image]] = field(default_factory=list)
    row: int = 0
    column: int = 0
    _kept: tuple[int, int] = (0, 0)
    _chunks: list[str] = field(default_factory=list)

    def feed(self, text: str) -> Screen:
        """Take what a program writes; raises `AssertionError` for what is no known sequence."""
        place = 0
        while place < len(text):
            found = _TOKEN.match(text, place)
            assert found is not None, text[place : place + 40]
            getattr(self, f"_{found.lastgroup}")(found[found.lastgroup or ""])
            place = found.end()
        return self

    def _control(self, letter: str) -> None:
        self.column = 0
        if letter == "\n":
            self.row += 1
            self.rows += [""] * (self.row + 1 - len(self.rows))

    def _text(self, text: str) -> None:
        line = self.rows[self.row].ljust(self.column)
        end = self.column + len(text)
        self.rows[self.row] = line[: self.column] + text + line[end:]
        self.column = end

    def _csi(self, sequence: str) -> None:
        number = int(sequence[:-1] or 1) if sequence[:-1].isdecimal() else 1
        if sequence[-1] == "A":
            assert self.row >= number, "above the screen"
            self.row -= number
        elif sequence[-1] == "K":
            self.rows[self.row] = ""
        else:
            assert sequence[-1] in "mhl", sequence

    def _escape(self, digit: str) -> None:
        if digit == "7":
            self._kept = (self.row, self.column)
        else:
            self.row, self.column = self._kept

    def _draw(self, picture: Image.Image) -> None:
        picture.load()
        assert self.column == 0
        self.pictures.append((self.row, picture))

    def _kitty(self, sequence: str) -> None:
        keys, _, content = sequence.partition(";")
        given = dict(key.split("=") for key in keys.split(","))
        assert len(content) <= 4096
        if not self._chunks:
            # f=100: a PNG. q=2: no answer, which a program would take for what a person types.
            assert (given["a"], given["f"], given["q"], given["C"]) == ("T", "100", "2", "1")
        self._chunks.append(content)
        if given["m"] == "0":
            decoded = base64.b64decode("".join(self._chunks), validate=True)
            self._chunks.clear()
            self._draw(Image.open(io.BytesIO(decoded)))

    def _iterm(self, sequence: str) -> None:
        keys, content = sequence.split(":")
        given = dict(key.split("=") for key in keys.split(";"))
        decoded = base64.b64decode(content, validate=True)
        assert given["inline"] == "1"
        assert int(given["size"]) == len(decoded)
        self._draw(Image.open(io.BytesIO(decoded)))
        self.row += int(given["height"]) - 1  # iTerm2 leaves the cursor at the picture's end
        self.column = 8

    def _sixel(self, sequence: str) -> None:
        self._draw(Image.fromarray(sixels(sequence)))
        self.row, self.column = self.row + 1, 3


def sixels(sequence: str) -> NDArray[np.uint8]:
    """The picture of a sixel sequence between DCS and ST, [h, w, 3].

    Source: https://vt100.net/docs/vt3xx-gp/chapter14.html
    """
    header = re.match(r'0;1q"1;1;(\d+);(\d+)', sequence)
    assert header is not None
    width, height = map(int, header.groups())
    drawn = np.full((height + 5, width, 3), 255, np.uint8)
    colours: dict[int, list[int]] = {}
    colour, x, top = 0, 0, 0
    body = sequence[header.end() :]
    for each in re.finditer(r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|(?:!(\d+))?([?-~])|([$-])", body):
        if each[1]:
            colours[int(each[1])] = [round(int(n) * 255 / 100) for n in each.groups()[1:4]]
        elif each[5]:
            colour = int(each[5])
        elif each[7]:
            count = int(each[6] or 1)
            for bit in range(6):
                if (ord(each[7]) - 63) >> bit & 1:
                    drawn[top + bit, x : x + count] = colours[colour]
            x += count
            assert x <= width
        else:
            x = 0
            top += 6 if each[8] == "-" else 0
    assert top + 6 >= height
    return drawn[:height]

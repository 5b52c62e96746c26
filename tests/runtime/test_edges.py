"""Canny's edges: those of OpenCV, and properties that the rule has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.runtime import canny

# Edges of OpenCV 5.0, `cv2.Canny(picture(seed), low, high)`, a bit a pixel from the first row on.
OPENCV = {
    (0, 100, 200): (
        "1289450424502ced153c84bbb02491248f59181c68b9788a289289d63edd823022409288002a88dd"
        "b74d44a45127dda57e10da1414894924e32e75aa22a0922522"
    ),
    (1, 40, 90): (
        "a4562484908a2db3c58c41091c1251290898c63a30cca8494512d2d0548a6971b2409253e116ab07"
        "f95884948a4f9b5d941b0024129248a0a26bc79ad7149248a4"
    ),
    (2, 300, 500): (
        "22920488a281221be1e38a2b94248949062d928d59ae9c92288229674285123f114512937cc00200"
        "c5f74922922d29a074b5b9e4244a453e722dc1271284522922"
    ),
    (3, 0, 1): (
        "e48a2a89248a213e658f6a671a2411448d3ba9ccd405128a291203d53a7a8a722221125348be1d0b"
        "c87d05144a43f291df03139a145149355907e185ae0c522514"
    ),
}


def picture(seed: int, height: int = 20, width: int = 26) -> NDArray[np.uint8]:
    """Areas of a few colours with noise: edges of every direction and strength."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 4, (height // 3 + 1, width // 3 + 1, 3)) * 60
    areas = coarse.repeat(3, axis=0).repeat(3, axis=1)[:height, :width]
    return (areas + rng.integers(0, 50, areas.shape)).astype(np.uint8)


def square(size: int = 40, begin: int = 10, end: int = 30) -> NDArray[np.uint8]:
    found = np.zeros((size, size, 3), np.uint8)
    found[begin:end, begin:end] = 255
    return found


@pytest.mark.parametrize(("seed", "low", "high"), sorted(OPENCV))
def test_edges_are_those_of_opencv(seed: int, low: int, high: int) -> None:
    edges = canny(picture(seed), low, high)
    assert np.packbits(edges[:, :, 0] > 0).tobytes().hex() == OPENCV[seed, low, high]


def test_a_square_has_one_thin_closed_line_around_it() -> None:
    edges = canny(square())
    assert edges.dtype == np.uint8
    assert edges.shape == (40, 40, 3)
    assert set(np.unique(edges)) == {0, 255}
    lines = edges[:, :, 0] > 0
    assert np.array_equal(edges[:, :, 1] > 0, lines)
    # Through the middle there are two crossings, one pixel wide, at the square's sides.
    for cut in (lines[20], lines[:, 20]):
        places = np.flatnonzero(cut)
        assert len(places) == 2
        assert abs(places[0] - 10) <= 1
        assert abs(places[1] - 30) <= 1
    assert not lines[13:27, 13:27].any()
    assert not lines[:8].any()


def test_a_weak_edge_stays_only_where_a_strong_one_goes_on_in_it() -> None:
    image = np.zeros((30, 40, 3), np.uint8)
    image[15:, :20] = 40  # strength 160: between the thresholds
    assert not canny(image, 100, 300).any()
    image[15:, 20:] = 90  # strength 360 beside it
    edges = canny(image, 100, 300)[:, :, 0] > 0
    assert edges[13:17, 2:18].any(axis=0).all()


def test_a_picture_of_one_colour_has_no_edges() -> None:
    assert not canny(np.full((9, 7, 3), 130, np.uint8), 0, 0).any()


def test_edges_are_found_in_whichever_colour_has_them() -> None:
    for channel in range(3):
        image = np.zeros((20, 20, 3), np.uint8)
        image[:, 10:, channel] = 255
        assert canny(image).any()


@given(
    st.integers(0, 1000),
    st.integers(1, 24),
    st.integers(1, 24),
    st.integers(0, 300),
    st.integers(0, 300),
)
@settings(max_examples=60)
def test_higher_thresholds_give_fewer_edges(
    seed: int, height: int, width: int, low: int, more: int
) -> None:
    image = picture(seed, height, width)
    edges = canny(image, low, low + more)
    stricter = canny(image, low + 20, low + more + 40)
    assert not (stricter & ~edges).any()


def test_thresholds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(InputError, match="low: expected at most high, 50, got 100"):
        canny(square(), 100, 50)
    with pytest.raises(InputError, match="high: expected a number of at least 0"):
        canny(square(), 2, -1)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(InputError, match="image: expected a Pillow image"):
        canny(np.zeros((4, 4), np.uint8))

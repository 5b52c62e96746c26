"""PyTorch's noise on a GPU, held against known answers, NVIDIA's header and printed tensors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from latentrt.bundle.errors import InputError
from latentrt.runtime.noise import PhiloxNoise
from latentrt.runtime.noise.philox import philox4x32

PRINTED = 5e-5 + 5e-6
"""Absolute. Half the last of four decimals, and ten times what a GPU's approximate sine is off in
[-pi, pi] (2**-21.4, CUDA C++ programming guide, intrinsic functions), for radii up to 6.7."""

A100, H100 = 108 * 2048, 132 * 2048
RTX_A4000, RTX_A6000 = 48 * 1536, 84 * 1536


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_gives_the_known_answers_of_random123(counter: str, key: str, expected: str) -> None:
    # DEShawResearch/random123, tests/kat_vectors, the lines of `philox4x32 10`.
    first, second = (int(word, 16) for word in key.split())
    words = philox4x32(tuple(int(word, 16) for word in counter.split()), (first, second))
    assert [f"{int(word):08x}" for word in words] == expected.split()


# NVIDIA's own curand_init and curand_normal4 (the headers of cuRAND 10.3.10), compiled for the CPU,
# where they take the C library's sine; in the order in which PyTorch's kernel deals them out. A row
# is a call on one stream: how many numbers, and some of them by their place.
HEADER = {
    # The farthest from 0, and those that show most how the uniforms are rounded and centred.
    "one grid": (
        0,
        A100,
        [
            (
                A100,
                {
                    0: -0.9246624,
                    49609: -0.32564813,
                    65460: -5.1160755,
                    88829: -0.007113017,
                    103878: -0.47614303,
                    166132: -0.0062624784,
                    199450: -5.119815,
                },
            )
        ],
    ),
    "many grids": (
        -1,
        1024,
        [
            (1024, {0: 0.6323023, 341: 1.0704426, 512: -0.6245491, 1023: 0.6255206}),
            (1025, {0: 2.0555518, 341: 1.1821544, 1023: 0.05613966, 1024: -0.5909483}),
            (9000, {1: 0.07431203, 3000: 1.8124281, 4500: 1.1208695, 8999: -0.8480267}),
        ],
    ),
    "high seed": (
        2**63 + 12345,
        512,
        [
            (2049, {0: -1.6362312, 683: -0.22235732, 1024: 0.8525938, 2048: -0.2086684}),
            (7, {0: 0.92923564, 1: 0.1472468, 2: -0.1199477, 6: 1.9535168}),
            (4096, {0: 0.15332076, 1365: 1.0713387, 2048: 0.43333212, 4095: 0.02599392}),
            (513, {0: -0.15795971, 171: -1.4575795, 256: -0.33639, 512: 0.15282388}),
        ],
    ),
}


@pytest.mark.parametrize("name", HEADER)
def test_normals_are_those_of_nvidias_header_call_by_call(name: str) -> None:
    seed, threads, calls = HEADER[name]
    noise = PhiloxNoise(seed, threads=threads)
    for count, expected in calls:
        drawn = noise.normal((count,))
        assert drawn.dtype == np.float32
        # The header rounds log, root, sine and product to single precision, 6e-8 of numbers up to
        # 4 each; here it is the result alone. Over 2.3 million numbers the worst was 4.8e-7 off.
        ours = drawn[list(expected)]
        np.testing.assert_allclose(ours, list(expected.values()), rtol=0, atol=1e-6)


def test_a_long_draw_is_an_a100s_and_an_h100s() -> None:
    # pytorch/pytorch#143086: torch.randn(1, 49 * 12 * 112 * 144) of seed 1 in torch 2.5.1. The last
    # numbers come from the 11th and 9th round of the grid.
    ends = {A100: [0.1549, -0.6797, -0.1656], H100: [-0.6970, -0.7780, 0.3267]}
    for threads, last in ends.items():
        drawn = PhiloxNoise(1, threads=threads).normal((1, 49 * 12 * 112 * 144))[0]
        first = [-0.2963, 2.6764, -0.1408]
        np.testing.assert_allclose(drawn[:3], first, rtol=0, atol=PRINTED)
        np.testing.assert_allclose(drawn[-3:], last, rtol=0, atol=PRINTED)


def test_a_draw_beyond_the_grid_is_an_rtx_a4000s() -> None:
    # pytorch/pytorch#97097: seed 14, normal_(5, 5**.5) of 1000 x 100 in torch 2.0.0.
    drawn = PhiloxNoise(14, threads=RTX_A4000).normal((1000, 100))
    corners = drawn[[0, 1, 2, -3, -2, -1]][:, [0, 1, 2, -3, -2, -1]] * math.sqrt(5.0) + 5.0
    printed = [
        [2.8731, 5.2727, 2.9889, 1.6853, 9.6331, 6.6319],
        [3.9968, 3.8097, 5.7328, 4.4029, 3.9804, 7.4698],
        [6.5552, 4.0857, 4.2315, 2.7704, 3.5479, 3.3063],
        [8.6297, 2.3137, 6.2596, 7.9358, 4.4697, 2.7475],
        [7.0551, 7.8583, 3.9990, 4.1139, 8.9315, 4.2042],
        [2.7337, 2.2106, 7.7815, 8.2207, 6.5395, 4.2604],
    ]
    np.testing.assert_allclose(corners, printed, rtol=0, atol=PRINTED)


def test_a_latents_noise_is_an_rtx_a6000s() -> None:
    # pytorch/pytorch#62467: seed 43, normal_() of 1 x 3 x 128 x 128.
    drawn = PhiloxNoise(43, threads=RTX_A6000).normal((1, 3, 128, 128))
    np.testing.assert_allclose(drawn[0, :, 0, 0], [1.9983, 0.8704, 2.1127], rtol=0, atol=PRINTED)


def test_three_calls_in_a_row_are_a_gpus() -> None:
    # GPU MODE lecture 18 (gpu-mode/lectures, lecture_018/FusedKernels.ipynb): after
    # torch.manual_seed(0) three draws x, y and b, of which it prints max(x + y / 2 + b, 0). Five
    # digits of every number: small ones show seven decimals.
    noise = PhiloxNoise(0)
    x, y, b = (noise.normal(shape) for shape in ((8, 8), (8, 8), (1, 8)))
    np.testing.assert_allclose(
        x[0],
        [-0.9247, -0.4253, -2.6438, 0.1452, -0.1209, -0.5797, -0.6229, -0.3284],
        rtol=0,
        atol=PRINTED,
    )
    printed = np.array(
        [
            [1.7098, 0, 0, 0, 6.7049e-01, 0, 3.4424e-01, 1.1223e-02],
            [1.8750, 0, 0, 2.2105, 6.6808e-01, 0, 1.8445, 1.9246],
            [2.2614, 1.3964, 5.1802e-01, 2.0114, 0, 0, 2.7715e-01, 0],
            [2.4750, 0, 1.9079, 5.4869e-01, 3.7923e-01, 0, 3.1791, 6.6843e-01],
            [1.8234, 0, 1.1147e-01, 0, 0, 0, 2.4250, 3.2593],
            [2.2903, 0, 1.1721, 6.9331e-01, 1.0583, 6.7518e-01, 0, 2.6185e-01],
            [1.5804, 0, 9.0740e-01, 1.6670e-01, 5.5230e-02, 0, 1.5325, 3.5984e-01],
            [1.5554, 0, 0, 9.4380e-01, 2.9795e-03, 7.4125e-02, 1.6286, 0],
        ]
    )
    # Half the last digit printed, and a millionth for the approximate sines.
    digit = 10.0 ** np.floor(np.log10(np.where(printed > 0, printed, 1.0)) - 4)
    ours = np.maximum(x + 0.5 * y + b, 0.0)
    assert np.all(np.abs(ours - printed) <= 0.5 * digit + 1e-6)


def test_a_latent_that_fits_the_grid_does_not_depend_on_the_gpu() -> None:
    small, large = PhiloxNoise(5, threads=16384), PhiloxNoise(5, threads=H100)
    for shape in ((4, 64, 64), (7,), (4, 33, 21)):
        np.testing.assert_array_equal(small.normal(shape), large.normal(shape))


def test_nothing_drawn_leaves_the_stream_where_it_is() -> None:
    # PyTorch's kernel returns before it moves the generator's offset.
    noise, expected = PhiloxNoise(9), PhiloxNoise(9)
    assert noise.normal((4, 0, 8)).shape == (4, 0, 8)
    np.testing.assert_array_equal(noise.normal((20,)), expected.normal((20,)))


@pytest.mark.parametrize("threads", [0, -256, 100, 300])
def test_threads_that_are_not_whole_blocks_are_refused_by_name(threads: int) -> None:
    with pytest.raises(InputError, match=r"^threads: expected a multiple of 256 above 0, got "):
        PhiloxNoise(0, threads=threads)

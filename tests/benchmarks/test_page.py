"""The page of `latentrt compare`: one file, complete, and free of other people's markup."""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from latentrt.benchmarks.machine import Machine
from latentrt.benchmarks.numerics import page as module
from latentrt.benchmarks.numerics.comparison import Check, Comparison, RunComparison
from latentrt.benchmarks.numerics.findings import Findings
from latentrt.benchmarks.numerics.layer_table import LayerCheck, LayerTable
from latentrt.benchmarks.numerics.page import AMPLIFIED, page
from latentrt.benchmarks.page import drawn
from latentrt.bundle.golden import Difference

HOSTILE = '<script>alert("x")</script> & a "star"'
VOID = {"meta", "img", "br"}
MACHINE = Machine("a CPU of 4 GHz", ("avx2",), 6, "Linux x86_64", "3.12.1", {"openvino": "2026.4"})
BUNDLE = {
    "name": HOSTILE,
    "source": "shapes",
    "family": "stable-diffusion",
    "dtype": "float16",
    "written": {"torch": "2.13"},
}


class Page(HTMLParser):
    """Tags in their order, text, and images; raises AssertionError for tags that do not close."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append({"tag": tag, **dict(attrs)})
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    def images(self, kind: str) -> list[bytes]:
        """The files of this kind that the page holds."""
        sources = [each["src"] or "" for each in self.attributes if each["tag"] == "img"]
        begin = f"data:image/{kind};base64,"
        return [base64.b64decode(s.removeprefix(begin)) for s in sources if s.startswith(begin)]

    @property
    def pictures(self) -> list[NDArray[np.uint8]]:
        return [np.asarray(Image.open(io.BytesIO(content))) for content in self.images("png")]


def checks(*errors: float, tolerance: float = 1e-4) -> tuple[Check, ...]:
    found = (Difference(error, 2 * error, 1.0) for error in errors)
    return tuple(Check(f"step {i}", each, tolerance) for i, each in enumerate(found))


def findings(*, error: float = 1e-6, layers: bool = True) -> Findings:
    reference = np.zeros((3, 12, 14), np.float32)
    picture = reference.copy()
    picture[0, 2, 3], picture[1, 4, 5] = 0.05, 0.9
    alone, steps = checks(1e-7, 2e-7, tolerance=3e-6), checks(1e-7, error)
    run = RunComparison(HOSTILE, "seed 3", alone, steps, 60.0, 0.99, picture, reference)
    unet = Check("unet", Difference(3e-6, 1e-5, 1.0), 5.5e-6)
    engines, precisions = {"unet": "onnxruntime"}, {"unet": "fp32"}
    comparison = Comparison(engines, precisions, (unet,), (run,), 55.0)
    bad = LayerCheck("b", Difference(0.01, 0.1, 1.0), 1e-5, "Conv2d", ("a",), ("b.weight",))
    good = LayerCheck("a", Difference(1e-7, 1e-6, 1.0), 1e-5, "Linear", (), ("a.weight",))
    table = LayerTable("unet", "onnxruntime", "fp32", HOSTILE, False, (good, bad), (), unet)
    tables = (table,) if layers else ()
    skipped = {"tensorrt fp32": HOSTILE}
    return Findings(BUNDLE, MACHINE, "PyTorch fp32", (comparison,), tables, skipped, {})


def test_a_page_needs_no_other_file_and_its_tags_close() -> None:
    content = page(findings())
    found = Page(content)
    for each in found.attributes:
        for name in ("src", "href", "xlink:href", "srcset"):
            assert (each.get(name) or "data:").startswith("data:")
        assert each["tag"] not in ("script", "link", "iframe", "object")
    assert not re.search(r"https?://|url\(|@import", content)
    assert "prefers-color-scheme: dark" in content


def test_text_of_prompts_and_errors_is_shown_as_text() -> None:
    found = Page(page(findings()))
    # The title, a heading, the machine's line, the prompt, PyTorch's weights, a reason to skip.
    assert sum(HOSTILE in text for text in found.texts) == 6


def test_pictures_are_beside_their_difference_sixteen_times_as_bright() -> None:
    reference, ours, off = Page(page(findings())).pictures
    assert (reference == round(255 / 2)).all()
    assert ours[2, 3].tolist() == [round(255 * 1.05 / 2), 128, 128]
    # 0.05 of a range of 2, and 0.9, which is beyond white.
    assert AMPLIFIED == 16
    assert off[2, 3].tolist() == [round(255 * 0.05 / 2 * 16), 0, 0]
    assert off[4, 5].tolist() == [0, 255, 0]
    assert np.count_nonzero(off) == 2


def test_a_picture_with_nan_is_white_and_so_is_its_difference() -> None:
    found = findings(layers=False)
    (comparison,) = found.comparisons
    picture = np.full((3, 12, 14), math.nan, np.float32)
    run = replace(comparison.runs[0], picture=picture, psnr=math.nan, ssim=math.nan)
    content = page(replace(found, comparisons=(replace(comparison, runs=(run,)),)))
    reference, ours, off = Page(content).pictures
    assert (reference != 255).all()
    assert (ours == 255).all()
    assert (off == 255).all()
    assert '<span class="bad">nan</span>' in content


def test_errors_out_of_tolerance_and_the_layer_at_fault_are_marked() -> None:
    good = page(findings(layers=False))
    assert 'class="bad"' not in good
    assert "OUT OF TOLERANCE" not in good
    bad = page(findings(error=2e-4))
    assert '<span class="bad">2.0e-04</span>' in bad
    assert '<span class="bad">1.0e-02</span>' in bad
    assert "first layer out of tolerance: b (Conv2d)" in bad
    assert "it reads b.weight" in bad
    assert "OUT OF TOLERANCE" in bad


def test_a_step_is_shown_with_its_largest_difference_and_tolerance_alone_and_in_the_run() -> None:
    texts = [text for text in Page(page(findings(layers=False))).texts if text]
    at = texts.index("step 1", texts.index("alone: tolerance"))
    alone, run = ["2.0e-07", "4.0e-07", "3.0e-06"], ["1.0e-06", "2.0e-06", "1.0e-04"]
    assert texts[at : at + 7] == ["step 1", *alone, *run]


def test_the_bundle_the_machine_and_the_versions_are_named() -> None:
    (line,) = [text for text in Page(page(findings())).texts if "a CPU" in text]
    for each in ("shapes", "float16", "torch 2.13", "6 cores", "Python 3.12.1", "openvino 2026.4"):
        assert each in line


def test_where_nothing_was_compared_the_reasons_are_shown() -> None:
    texts = Page(page(replace(findings(layers=False), comparisons=()))).texts
    assert "Nothing was compared." in texts
    assert f"tensorrt fp32 was skipped: {HOSTILE}" in "".join(texts)


def test_an_engine_that_failed_has_a_row_and_its_error_is_shown() -> None:
    good = findings(layers=False)
    texts = Page(page(replace(good, failed={"openvino bf16": HOSTILE}))).texts
    assert texts.index("onnxruntime fp32") < texts.index("openvino bf16")
    assert (texts.count("ok"), texts.count("FAILED")) == (1, 1)
    assert f"openvino bf16 failed: {HOSTILE}" in "".join(texts)
    assert "An engine failed." in texts


def test_no_layer_compared_is_a_fault() -> None:
    whole = findings()
    some = replace(whole.layers[0], layers=whole.layers[0].layers[:1], unmatched=("c", "d", "e"))
    content = page(replace(whole, layers=(some, replace(some, layers=()))))
    Page(content)  # its tags close
    assert "<p>onnxruntime fp32: 1 of 4 layers in the graph compared</p>" in content
    failed = "onnxruntime fp32: FAILED: 0 of 3 layers in the graph compared"
    assert f'<p class="bad">{failed}</p>' in content
    assert "OUT OF TOLERANCE" in content


def test_a_plot_is_logarithmic_and_has_a_gap_where_an_error_has_no_logarithm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    axes: list[Any] = []

    def look(draw: Any, *_: Any) -> str:
        def keep(figure: Any) -> None:
            draw(figure)
            axes.extend(figure.axes)

        drawn(keep, (4.0, 2.0))
        return ""

    monkeypatch.setattr(module, "plot", look)
    errors = checks(1e-6, 0.0, math.inf, math.nan, 1e-4)
    (comparison,) = findings(layers=False).comparisons
    run = replace(comparison.runs[0], steps=errors, alone=errors)
    page(replace(findings(layers=False), comparisons=(replace(comparison, runs=(run,)),)))
    (found,) = axes
    assert found.get_yscale() == "log"
    run_line, alone_line, tolerance = found.get_lines()
    expected = [1e-6, math.nan, math.nan, math.nan, 1e-4]
    assert np.array_equal(run_line.get_ydata(), expected, equal_nan=True)
    assert np.array_equal(alone_line.get_ydata(), expected, equal_nan=True)
    assert np.array_equal(tolerance.get_ydata(), [1e-4] * 5)


def test_plots_are_svg_with_text_and_without_addresses_or_dates() -> None:
    content = Page(page(findings())).images("svg+xml")
    assert len(content) == 2  # of steps and of layers
    for each in content:
        ElementTree.fromstring(each)
        text = each.decode()
        assert "tolerance" in text
        assert "dc:date" not in text
    assert content == Page(page(findings())).images("svg+xml")

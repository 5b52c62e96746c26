"""The page of a comparison: complete in itself, true to what was found, free of others' markup."""

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
from numpy.typing import NDArray
from PIL import Image

from latentrt.benchmarks.machine import Machine
from latentrt.benchmarks.numerics.chart import Chart, Series
from latentrt.benchmarks.numerics.comparison import Comparison, Row, RunComparison
from latentrt.benchmarks.numerics.findings import Findings
from latentrt.benchmarks.numerics.layer_table import LayerRow, LayerTable
from latentrt.benchmarks.numerics.page import AMPLIFIED, page
from latentrt.benchmarks.numerics.provenance import Provenance
from latentrt.bundle.golden import Difference

HOSTILE = '<script>alert("x")</script> & a "star"'
VOID = {"meta", "img", "br", "path", "circle"}
MACHINE = Machine("a CPU of 4 GHz", ("avx2",), 6, "Linux x86_64", "3.12.1", {"openvino": "2026.4"})
ORIGIN = Provenance(HOSTILE, "shapes", "stable-diffusion", "float16", {"torch": "2.13"}, MACHINE)


class Page(HTMLParser):
    """Tags in their order, text, and pictures; raises AssertionError for tags that do not close."""

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
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    @property
    def pictures(self) -> list[NDArray[np.uint8]]:
        found: list[NDArray[np.uint8]] = []
        for each in self.attributes:
            if each["tag"] == "img":
                kind, _, content = (each["src"] or "").partition(",")
                assert kind == "data:image/png;base64"
                found.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))))
        return found


def rows(*errors: float, tolerance: float = 1e-4) -> tuple[Row, ...]:
    found = (Difference(error, error, 1.0) for error in errors)
    return tuple(Row(f"step {i}", each, tolerance) for i, each in enumerate(found))


def findings(*, error: float = 1e-6, layers: bool = True) -> Findings:
    reference = np.zeros((3, 12, 14), np.float32)
    picture = reference.copy()
    picture[0, 2, 3], picture[1, 4, 5] = 0.05, 0.9
    run = RunComparison(
        HOSTILE,
        "seed 3",
        rows(1e-7, 2e-7, tolerance=3e-6),
        rows(1e-7, error),
        60.0,
        0.99,
        picture,
        reference,
    )
    unet = Row("unet", Difference(3e-6, 1e-5, 1.0), 5.5e-6)
    engines, precisions = {"unet": "onnxruntime"}, {"unet": "fp32"}
    comparison = Comparison(engines, precisions, (unet,), (run,), 55.0, {})
    bad = LayerRow("b", "Conv2d", Difference(0.01, 0.1, 1.0), 1e-5, ("a",), ("b.weight",))
    good = LayerRow("a", "Linear", Difference(1e-7, 1e-6, 1.0), 1e-5, (), ("a.weight",))
    table = LayerTable("unet", "onnxruntime", "fp32", HOSTILE, False, (good, bad), (), None, 1e-6)
    tables = (table,) if layers else ()
    skipped = {"tensorrt fp32": HOSTILE}
    return Findings(ORIGIN, "PyTorch fp32", (comparison,), tables, skipped, failed={})


def test_a_page_is_complete_in_itself_and_its_tags_close() -> None:
    content = page(findings())
    found = Page(content)
    for each in found.attributes:
        for name in ("src", "href", "xlink:href", "srcset"):
            assert (each.get(name) or "data:").startswith("data:")
        assert each["tag"] not in ("script", "link", "iframe", "object")
    assert not re.search(r"https?://|url\(|@import", content)
    assert "prefers-color-scheme: dark" in content


def test_what_others_wrote_is_text_on_the_page() -> None:
    found = Page(page(findings()))
    # As the title, a heading, where it is from, the prompt, whose weights, why one was skipped.
    assert sum(HOSTILE in text for text in found.texts) == 6


def test_pictures_stand_beside_their_difference_sixteen_times_as_bright() -> None:
    reference, ours, off = Page(page(findings())).pictures
    assert (reference == round(255 / 2)).all()
    assert ours[2, 3].tolist() == [round(255 * 1.05 / 2), 128, 128]
    # 0.05 of a range of 2, and 0.9, which is beyond white.
    assert AMPLIFIED == 16
    assert off[2, 3].tolist() == [round(255 * 0.05 / 2 * 16), 0, 0]
    assert off[4, 5].tolist() == [0, 255, 0]
    assert np.count_nonzero(off) == 2


def test_numbers_out_of_tolerance_and_the_layer_at_fault_are_marked() -> None:
    good = page(findings(layers=False))
    assert 'class="bad"' not in good
    assert "OUT OF TOLERANCE" not in good
    bad = page(findings(error=2e-4))
    assert '<span class="bad">2.0e-04</span>' in bad
    assert '<span class="bad">1.0e-02</span>' in bad
    assert "a fault arises in b; it reads b.weight" in bad
    assert "OUT OF TOLERANCE" in bad


def test_shares_of_pictures_drawn_as_asked_stand_in_a_table_of_their_own() -> None:
    plain = findings(layers=False)
    assert "Prompt adherence" not in page(plain)
    (comparison,) = plain.comparisons
    judged = replace(comparison, adherence={"colour": 0.85, "all": 0.5})
    texts = Page(page(replace(plain, comparisons=(judged,), drawn=20))).texts
    at = texts.index("colour")
    assert texts[at : at + 2] == ["colour", "all"]
    assert [text for text in texts if text.endswith("%")] == ["85%", "50%"]


def test_a_page_says_of_which_bundle_it_is_and_what_it_was_made_on() -> None:
    (line,) = [text for text in Page(page(findings())).texts if "a CPU" in text]
    for each in ("shapes", "float16", "torch 2.13", "6 cores", "Python 3.12.1", "openvino 2026.4"):
        assert each in line


def test_a_page_of_nothing_compared_says_so_and_why() -> None:
    nothing = replace(findings(layers=False), comparisons=(), drawn=3)
    texts = Page(page(nothing)).texts
    assert "Nothing was compared." in texts
    assert f"tensorrt fp32 was not compared: {HOSTILE}" in "".join(texts)


def test_an_engine_that_failed_is_a_row_and_its_problem_is_said_though_all_else_is_well() -> None:
    good = findings(layers=False)
    texts = Page(page(replace(good, failed={"openvino bf16": HOSTILE}))).texts
    assert texts.index("onnxruntime fp32") < texts.index("openvino bf16")
    assert (texts.count("ok"), texts.count("FAILED")) == (1, 1)
    assert f"openvino bf16 failed: {HOSTILE}" in "".join(texts)
    assert "An engine failed." in texts
    alone = Page(page(replace(good, comparisons=(), failed={"openvino bf16": HOSTILE}))).texts
    assert "Nothing was compared." in alone
    assert f"openvino bf16 failed: {HOSTILE}" in "".join(alone)


def test_a_picture_that_is_not_finite_is_white_and_so_is_its_difference() -> None:
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


def test_layers_say_how_many_matched_and_none_at_all_is_a_fault() -> None:
    whole = findings()
    (table,) = whole.layers
    some = replace(table, unmatched=("c", "d", "e"))
    none = replace(some, rows=())
    content = page(replace(whole, layers=(some, none)))
    Page(content)  # its tags close
    assert '<p class="soft">onnxruntime fp32: 2 matched of 5 layers in the graph</p>' in content
    assert (
        '<p class="bad">onnxruntime fp32: nothing matched of 3 layers in the graph</p>' in content
    )
    alone = page(replace(whole, layers=(none,)))
    assert "OUT OF TOLERANCE" in alone


def test_a_step_stands_beside_its_tolerance_alone_and_in_the_run() -> None:
    texts = [text for text in Page(page(findings(layers=False))).texts if text]
    at = texts.index("step 1", texts.index("tolerance"))
    assert texts[at : at + 5] == ["step 1", "2.0e-07", "3.0e-06", "1.0e-06", "1.0e-04"]


def elements(svg: str, tag: str, kind: str = "") -> list[Any]:
    return [e for e in ElementTree.fromstring(svg).iter(tag) if kind in e.get("class", "")]


def test_a_chart_is_logarithmic() -> None:
    values = (1e-6, 1e-5, 1e-3)
    chart = Chart("t", "step", ("a", "b", "c"), [Series("s", values, 0)], limit=1e-4)
    svg = chart.svg()
    heights = [float(circle.get("cy")) for circle in elements(svg, "circle")]
    decade = heights[0] - heights[1]
    assert decade > 0
    # Places are rounded to a tenth of a pixel.
    assert math.isclose(heights[1] - heights[2], 2 * decade, abs_tol=0.2)
    (limit,) = elements(svg, "path", "limit")
    assert math.isclose(
        float(limit.get("d").split()[1].split("H")[0]), heights[1] - decade, abs_tol=0.2
    )
    across = [float(circle.get("cx")) for circle in elements(svg, "circle")]
    assert math.isclose(across[2] - across[1], across[1] - across[0], abs_tol=0.2)


def test_a_chart_leaves_a_gap_where_there_is_no_logarithm() -> None:
    values = (1e-6, 0.0, 1e-5, math.inf, math.nan, 1e-4, 1e-4)
    svg = Chart("t", "step", [str(i) for i in range(7)], [Series("s", values, 0)]).svg()
    assert len(elements(svg, "circle")) == 4
    (line,) = elements(svg, "g", "series")
    assert line.find("path").get("d").count("M") == 3


def test_a_chart_of_equal_results_is_still_a_chart() -> None:
    svg = Chart("t", "step", ("a",), [Series("s", (0.0,), 0)]).svg()
    assert len(elements(svg, "path", "grid")) == 2

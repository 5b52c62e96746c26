"""How well the pictures of a comparison fit their prompts, by CLIP."""

from __future__ import annotations

from dataclasses import replace

from latentrt.benchmarks.numerics.comparison import Comparison, RunComparison
from latentrt.benchmarks.numerics.findings import Findings
from latentrt.runtime.clip import Clip
from latentrt.runtime.pixels import to_pixels


def with_clip(findings: Findings, clip: Clip) -> Findings:
    """The findings with the similarity of each picture, and of PyTorch's, to its prompt."""

    def scored(run: RunComparison) -> RunComparison:
        pictures = [to_pixels(run.picture), to_pixels(run.reference)]
        ours, theirs = clip(pictures, run.prompt).cosine.tolist()
        return replace(run, clip=(ours, theirs))

    def compared(comparison: Comparison) -> Comparison:
        return replace(comparison, runs=tuple(map(scored, comparison.runs)))

    return replace(findings, comparisons=tuple(map(compared, findings.comparisons)))

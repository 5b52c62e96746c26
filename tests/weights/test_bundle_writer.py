"""A bundle written without PyTorch beside the one that export made of the same checkpoint."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import read_json

from latentrt.bundle.bundle import Bundle

# What tracing and the libraries give is read from the exported bundle: graphs, the tensors' shapes,
# the configs with their defaults, tokenizers and the scheduler's config.
WRITE = """
import json, sys
from pathlib import Path
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.tensors import TensorFile
from latentrt.weights.bundle_writer import write_bundle
from latentrt.weights.checked import Checked
from latentrt.weights.checkpoint import Checkpoint
from latentrt.weights.families import family_of, forces_zeros, left_out
from latentrt.weights.latent_space import LatentSpace, read_sample_size
from latentrt.weights.parts import open_parts
from latentrt.weights.tokenizer_files import TokenizerFiles

checkpoint, exported, out = (Path(argument) for argument in sys.argv[1:])
bundle = Bundle.open(exported)
records = {Path(r.weights).stem: r for r in bundle.manifest.components.values()}


def describe(folder, config):
    file = TensorFile(exported / records[folder].weights)
    return records[folder].config, {name: file.entries[name].shape for name in file}


def tokenizer(folder):
    special = json.loads((exported / folder / "special_tokens.json").read_text())
    return TokenizerFiles(
        model=(exported / folder / "tokenizer.json").read_text("utf-8"),
        bos=special["bos_token_id"],
        eos=special["eos_token_id"],
        pad=special["pad_token_id"],
        length=special["model_max_length"],
        padding_side=special["padding_side"],
        truncation_side=special["truncation_side"],
    )


source = Checkpoint.open(checkpoint)
family = family_of(source)
parts = open_parts(source, family, describe)
checked = Checked(
    source=source,
    family=family,
    parts=parts,
    tokenizers={e: tokenizer(f) for e, f in zip(family.text_encoders, family.tokenizers)},
    latent_space=LatentSpace.of("vae", family, parts["vae"].config),
    scheduler=bundle.scheduler_config(),
    sample_size=read_sample_size(source, family, parts["unet"].config)[0],
    zeros=forces_zeros(source, family),
    notes=(*left_out(source, family), *(note for part in parts.values() for note in part.notes)),
)
write_bundle(
    out,
    checked,
    "float32",
    lambda spec, entries: bundle.graph(spec.name).read_bytes(),
    versions={},
    progress=lambda stage, done, total: None,
)
print(*sys.modules)
"""


@pytest.mark.parametrize("configuration", ["heads", "xl"])
def test_a_bundle_is_written_without_pytorch_and_is_the_one_that_export_makes(
    checkpoint: Callable[[str], Path],
    bundle: Callable[[str], Path],
    tmp_path: Path,
    configuration: str,
) -> None:
    exported = bundle(configuration)
    arguments = [str(checkpoint(configuration)), str(exported), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", WRITE, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {"torch", "diffusers", "transformers", "onnx"}.isdisjoint(done.stdout.split())
    Bundle.open(tmp_path, verify=True)
    found, expected = read_json(tmp_path / "manifest.json"), read_json(exported / "manifest.json")
    del expected["files"]["golden.safetensors"]
    assert found | {"versions": expected["versions"]} == expected

"""What was opened before a fork, or is sent to another process: an error at once, never a hang."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.toy_model import ToyPipeline, request

from latentrt.bundle.errors import Closed, LatentrtError
from latentrt.runtime import Batcher, Guidance, Pipeline, Request, Result, Sampling, Size

FORKING = """
import gc, os, signal, sys
from latentrt.bundle.errors import LatentrtError
from latentrt.runtime import Pipeline, Request, Sampling

bundle, engine = sys.argv[1:]
ordered = Request("a red circle", seed=1, sampling=Sampling("euler", steps=2))
endless = ordered.with_values(sampling=Sampling("euler", steps=999))
pipe = Pipeline.open(bundle, engine=engine)
batcher = pipe.batcher(batch_sizes=(2,))
pipe(ordered), batcher.submit(ordered).result()
direct, going = pipe.run(ordered), batcher.submit(endless)
steps = iter(direct)
step = next(steps)
decoder = pipe.engine("vae_decoder", {"batch": 1, "height": 8, "width": 8})

def use():
    for work in (
        lambda: pipe(ordered),
        lambda: pipe.run(ordered),
        lambda: pipe.plan(ordered),
        lambda: pipe.compiled,
        lambda: pipe.decode(step.denoised[None]),
        lambda: pipe.batcher().submit(ordered),
        lambda: decoder({}),
        lambda: batcher.submit(ordered, deadline=5),
        lambda: batcher.load,
        lambda: next(iter(direct)),
        lambda: next(steps),
        direct.result,
        step.preview,
        lambda: next(iter(going)),
        going.result,
        going.future.result,
        going.future.exception,
    ):
        try:
            work()
        except LatentrtError as error:
            assert f"opened by process {os.getppid()}" in str(error), error
        else:
            raise AssertionError("was not refused")

def close():
    going.cancel(), direct.cancel(), going.future.cancel()
    decoder.close(), batcher.close(), batcher.close(cancel=True), pipe.close()
    for each in (going, direct, batcher, pipe):
        with each:
            pass

def forget():
    globals().update(dict.fromkeys("pipe batcher direct going steps step decoder".split()))
    gc.collect()

def open_another():
    with Pipeline.open(bundle, engine=engine) as own, own.batcher(batch_sizes=(2,)) as others:
        own(ordered), others.submit(ordered).result()

for work in (lambda: None, use, close, forget, open_another):
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # ends a child that hangs
        work()
        sys.exit(7)  # as a process ends by itself, atexit and all
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(getattr(work, "__name__", "?"), status, flush=True)
going.cancel()
pipe(ordered), batcher.submit(ordered).result()
batcher.close(), pipe.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_forked_process_gets_errors_ends_and_can_open_its_own(
    bundle: Callable[[str], Path], engine: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING, str(bundle("heads")), engine],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = ("<lambda>", "use", "close", "forget", "open_another")
    assert done.stdout.split("\n")[:-1] == [f"{name} 7" for name in names], done.stderr


def test_a_pipeline_and_what_it_made_cannot_be_pickled(bundle: Callable[[str], Path]) -> None:
    with Pipeline.open(bundle("heads"), engine="onnxruntime") as pipe:
        ordered = Request("a red circle", seed=1, sampling=Sampling("euler", steps=1))
        run = pipe.run(ordered)
        step = next(iter(run))
        engine = pipe.engine("vae_decoder", {"batch": 1, "height": 8, "width": 8})
        for each in (pipe, run, step, pipe.plan(ordered), engine, pipe.decode):
            with pytest.raises(Closed, match="in the process that uses it"):
                pickle.dumps(each)
        with pytest.raises(Closed, match="in the process that uses it"):
            copy.deepcopy(pipe)


def test_a_batcher_and_its_runs_cannot_be_pickled() -> None:
    with Batcher(ToyPipeline()) as batcher:
        run = batcher.submit(request(1))
        run.result()
        for each in (batcher, run, run.future):
            with pytest.raises(LatentrtError, match="in the process that uses it"):
                pickle.dumps(each)


def test_requests_and_results_survive_pickling() -> None:
    latents = np.random.default_rng(0).standard_normal((2, 4, 6, 8), dtype=np.float32)
    ordered = Request(
        "1",
        num_images=2,
        seed=3,
        size=Size(64, 48),
        sampling=Sampling("euler", steps=2),
        guidance=Guidance(3.0, rescale=0.5),
        latents=latents,
        composed=[("2", 0.5)],
    )
    again = pickle.loads(pickle.dumps(ordered))
    assert again.to_json() == ordered.to_json()
    assert np.array_equal(again.latents, latents)
    with Batcher(ToyPipeline()) as batcher:
        result = batcher.submit(request(1, num_images=2)).result()
    copied: Result = pickle.loads(pickle.dumps(result))
    assert [image.tobytes() for image in copied.images] == [i.tobytes() for i in result.images]
    assert np.array_equal(copied.latents, result.latents)
    assert copied.request.to_json() == result.request.to_json()
    assert copied.seconds == result.seconds

"""The speed of the CPU engines beside bare OpenVINO and PyTorch, in one run.

    python -m latentrt.benchmarks.engines [--bundle DIR] [--json FILE]

One step of a U-Net with guidance, and one decoding of the VAE. Every contestant is in a process of
its own. Those of one precision are in memory together and take turns, so that a slower minute of
the machine meets all of them; a lap is several such rounds, and the precisions' laps take turns
too. What each gives is held against PyTorch's fp32.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.contestants import CONTESTANTS, Contestant, Task
from latentrt.benchmarks.latency.ceilings import ceilings as measured
from latentrt.benchmarks.latency.operations import work_of
from latentrt.benchmarks.machine import Machine, load
from latentrt.benchmarks.memory import Memory
from latentrt.benchmarks.narration import say
from latentrt.benchmarks.runtime import Spread
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import EngineError
from latentrt.bundle.golden import Difference
from latentrt.bundle.publish import write_file
from latentrt.engines.registry import backend, choose

COMPONENTS: Final = ("unet", "vae_decoder")
REFERENCE: Final = ("PyTorch", "fp32")
_SOURCE: Final = "random:sd15"
_SPAWN: Final = multiprocessing.get_context("spawn")
# Idle threads that wait for work by turning in circles give up within this many seconds.
_PAUSE: Final = 0.3

Start = Callable[..., Any]
"""Makes a process, or a thread, of `target` and `args`."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a contestant did.

    `ratio` is how many times as fast as PyTorch's fp32 it is; `rate` its operations a second and
    `share` that part of the machine's ceiling in its precision; the errors are from PyTorch's fp32;
    `ready` the seconds from its start to the end of its first evaluation.
    """

    contestant: str
    precision: str
    seconds: Spread
    ratio: float
    rate: float
    share: float
    relative_error: float
    max_abs_error: float
    ready: float
    memory: Memory


@dataclass(frozen=True, slots=True)
class _First:
    """What a contestant answers when it is ready."""

    seconds: float
    output: NDArray[Any]
    memory: Memory


@dataclass(slots=True)
class _Seen:
    """What was heard of a contestant so far; `first` of its latest start."""

    seconds: list[float] = field(default_factory=list)
    first: _First | None = None


def measure(
    task: Task,
    count: int,
    ceilings: Mapping[str, float],
    *,
    laps: int,
    rounds: int,
    start: Start = _SPAWN.Process,
    contestants: Sequence[Contestant] = CONTESTANTS,
) -> list[Result]:
    """Each contestant's result, in their order; `REFERENCE` has to be one of them.

    `count` is the operations of an evaluation, `ceilings` those a second that the machine reaches.
    Raises `EngineError` naming a contestant that ends early, as one does that memory runs out for.
    """
    seen = {(c.name, c.precision): _Seen() for c in contestants}
    for lap in range(laps):
        for precision in dict.fromkeys(c.precision for c in contestants):
            say(f"{task.component}, {precision}, lap {lap + 1} of {laps}")
            group = [c for c in contestants if c.precision == precision]
            _run_lap(group, task, seen, rounds, start)
    return [_result(c, seen, count, ceilings[c.precision]) for c in contestants]


def _run_lap(
    group: Sequence[Contestant],
    task: Task,
    seen: Mapping[tuple[str, str], _Seen],
    rounds: int,
    start: Start,
) -> None:
    with ExitStack() as stack:
        turns: list[tuple[_Seen, Callable[[], Any]]] = []
        for contestant in group:
            ask = stack.enter_context(_started(contestant, task, start))
            one = seen[contestant.name, contestant.precision]
            one.first = ask()
            turns.append((one, ask))
            say(f"  {contestant.name}: ready")
        for number in range(rounds):
            for one, ask in turns if number % 2 == 0 else reversed(turns):
                time.sleep(_PAUSE)
                one.seconds.append(ask())


@contextmanager
def _started(contestant: Contestant, task: Task, start: Start) -> Generator[Callable[[], Any]]:
    """A contestant under way, and what asks it for one evaluation: the first, then its seconds."""
    ours, theirs = multiprocessing.Pipe()
    process = start(target=_compete, args=(contestant, task, theirs), daemon=True)
    process.start()

    def ask() -> Any:
        ours.send(True)
        while not ours.poll(0.5):
            if not process.is_alive():
                raise EngineError(f"{contestant.name} {contestant.precision} ended by itself")
        return ours.recv()

    try:
        yield ask
    finally:
        ours.send(False)
        process.join()
        ours.close()
        theirs.close()


def _compete(contestant: Contestant, task: Task, channel: Connection) -> None:
    channel.recv()
    begun = time.perf_counter()
    evaluate = contestant.ready(contestant.precision, task)
    output = np.array(evaluate())
    channel.send(_First(time.perf_counter() - begun, output, Memory.here()))
    while channel.recv():
        begun = time.perf_counter()
        evaluate()
        channel.send(time.perf_counter() - begun)


def _result(
    contestant: Contestant, seen: Mapping[tuple[str, str], _Seen], count: int, ceiling: float
) -> Result:
    one, reference = seen[contestant.name, contestant.precision], seen[REFERENCE]
    assert one.first is not None
    assert reference.first is not None
    seconds = Spread.of(one.seconds)
    error = Difference.between(one.first.output, reference.first.output)
    rate = count / seconds.median
    return Result(
        contestant=contestant.name,
        precision=contestant.precision,
        seconds=seconds,
        ratio=Spread.of(reference.seconds).median / seconds.median,
        rate=rate,
        share=rate / ceiling,
        relative_error=error.relative,
        max_abs_error=error.max_abs,
        ready=one.first.seconds,
        memory=one.first.memory,
    )


def print_table(component: str, results: Sequence[Result]) -> None:
    """Medians with their ranges, and what belongs to them."""
    head = f"{'seconds':>9}  {'range':<16}{'ratio':>6}{'TFLOP/s':>9}{'ceiling':>9}"
    print(f"{component:<26}{head}{'error':>9}{'own GB':>8}{'peak GB':>9}")
    for one in results:
        spread, memory = one.seconds, one.memory
        ends = f"{spread.least:.3f} to {spread.greatest:.3f}"
        speed = f"{one.ratio:6.2f}{one.rate / 1e12:9.3f}{one.share:9.0%}"
        held = f"{_gigabytes(memory.own):>8}{_gigabytes(memory.peak):>9}"
        name = f"{one.contestant}, {one.precision}"
        print(f"{name:<26}{spread.median:9.3f}  {ends:<16}{speed}{one.relative_error:9.1e}{held}")


def _gigabytes(count: int | None) -> str:
    return "?" if count is None else f"{count / 1e9:.2f}"


def _export(folder: Path) -> None:
    from latentrt.export.export import export

    export(_SOURCE, folder, golden=False)


def _ceiling(precision: str) -> float:
    """Operations a second that OpenVINO, or in fp32 NumPy, reaches here in a product."""
    chosen = choose("openvino", "float32", precision)
    return measured(chosen, "float32").rate


def benchmark(
    bundle: Path,
    ceilings: Mapping[str, float],
    *,
    latent: int,
    laps: int,
    rounds: int,
    start: Start = _SPAWN.Process,
) -> dict[str, Any]:
    """Measure every component and print its table; gives all of it as a JSON object.

    Those take part whose precision has a ceiling. Raises `EngineError` as `measure` does.
    """
    before = load()
    components: dict[str, Any] = {}
    for name in COMPONENTS:
        task = Task(bundle, name, latent)
        count = work_of(task.blueprint()).operations
        able = [c for c in CONTESTANTS if c.precision in ceilings]
        sizes = {"laps": laps, "rounds": rounds}
        results = measure(task, count, ceilings, **sizes, start=start, contestants=able)
        print_table(name, results)
        components[name] = {
            "inputs": {s.name: list(s.dims) for s in task.blueprint().fixed_inputs},
            "operations": count,
            "results": [asdict(one) for one in results],
        }
    return {
        "machine": Machine.here().to_json(),
        "load": {"before": before, "after": load()},
        "source": Bundle.open(bundle).manifest.source,
        "laps": laps,
        "rounds": rounds,
        "ceilings": dict(ceilings),
        "components": components,
    }


def main() -> None:
    """Measure, print, and write JSON where asked; a bundle that is not there is exported first."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--bundle", type=Path, default=Path("build/sd15"), help=f"of {_SOURCE}")
    parser.add_argument("--latent", type=int, default=64, help="latents' height and width")
    parser.add_argument("--laps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5, help="evaluations a lap")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    options = parser.parse_args()
    # In a process that ends: what they load would be held beside the contestants.
    with _SPAWN.Pool(1) as pool:
        if not options.bundle.exists():
            say(f"exporting {_SOURCE} to {options.bundle}")
            pool.apply(_export, (options.bundle,))
        precisions = backend("openvino").precisions["float32"]
        heights = {precision: pool.apply(_ceiling, (precision,)) for precision in precisions}
    sizes = {"latent": options.latent, "laps": options.laps, "rounds": options.rounds}
    found = benchmark(options.bundle, heights, **sizes)
    if options.json is not None:
        write_file(options.json, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()

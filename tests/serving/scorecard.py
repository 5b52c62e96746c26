"""`make scorecard`: every storm in full size; writes docs/reliability.json and docs/reliability.md.

python -m tests.serving.scorecard [--share 0.1]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families
from tests.conftest import ROOT, TRACED, make_checkpoint
from tests.serving import storms
from tests.serving.bad_bodies import BODIES
from tests.serving.live import Live, listening, service
from tests.serving.orders import alone, mixed
from tests.serving.process import one_size, serving
from tests.serving.storms import Outcome

from latentrt.export.export import export
from latentrt.serving.limits import Limits
from latentrt.serving.shelf import Shelf

JSON = ROOT / "docs" / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"
QUICK = {"prompt": "a fox", "num_inference_steps": 2}

TITLES: Mapping[str, str] = {
    "bad_bodies": "Bad requests, each with the right status and the field at fault",
    "cancels": "Cancelled at a random moment: in no call that begins after the answer",
    "disconnects": "Clients that close the connection at a random moment",
    "deadlines": "Deadlines",
    "burst": "Mixed requests at once from 50 clients: each picture is the one drawn alone",
    "overload": "Ten times more than the queue holds: 429, and no admitted one is slowed down",
    "aborts": "Requests of which a third is aborted: memory, threads and file handles stay",
    "sigterm": "SIGTERM under load: nothing admitted is lost",
    "sigkill": "SIGKILL under load: the next start serves",
}


def bad_bodies(live: Live) -> Outcome:
    """Each of the bad requests once."""
    with httpx.Client(base_url=live.url, timeout=60) as client:
        wrong = [bad.send(client) for bad in BODIES]
    return Outcome(len(BODIES), [each for each in wrong if each])


def aborts(folder: Path, count: int) -> Outcome:
    """A third of the requests is aborted; what the process holds after the first 200 stays."""
    outcome, chance = Outcome(count), random.Random(0)
    with serving(folder) as process:
        seen = psutil.Process(process.popen.pid)
        before: tuple[float, int, int] | None = None
        waiting = list(range(count))
        done = threading.Semaphore(0)

        def client() -> None:
            with httpx.Client(base_url=process.url, timeout=120) as session:
                while waiting:
                    number = waiting.pop()
                    body = {"prompt": f"a fox {number}", "num_inference_steps": 6}
                    try:
                        if number % 3 == 0:
                            timeout = chance.uniform(0.001, 0.1)
                            session.post("/v1/images/generations", json=body, timeout=timeout)
                        else:
                            answer = session.post("/v1/images/generations", json=body)
                            if answer.status_code not in (200, 429):
                                outcome.failed.append(f"{number}: {answer.text[:100]}")
                    except httpx.TimeoutException:
                        pass
                    done.release()

        _fill_pools(process.url)
        threads = [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        first = min(200, count // 2)
        for number in range(count):
            done.acquire()
            if number == first:
                before = _held(seen)
        for thread in threads:
            thread.join()
        time.sleep(1)
        assert before is not None
        after = _held(seen)
    outcome.figures = {"rss_ratio": after[0] / before[0], "threads": after[1], "files": after[2]}
    if after[0] > before[0] * 1.03:
        outcome.failed.append(f"memory grew by {after[0] / before[0] - 1:.1%}")
    if after[1] > before[1] or after[2] > before[2]:
        outcome.failed.append(f"threads and files {before[1:]} became {after[1:]}")
    return outcome


def _fill_pools(url: str) -> None:
    """Ask so much at once that each pool of threads starts all that it may have."""

    async def every() -> None:
        limits = httpx.Limits(max_connections=None)
        for _ in range(3):
            async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as session:
                asked = [session.post("/v1/images/generations", json=QUICK) for _ in range(60)]
                await asyncio.gather(*asked)

    asyncio.run(every())


def _held(process: psutil.Process) -> tuple[float, int, int]:
    """Resident bytes, threads, and files that are no connections."""
    files = process.num_fds() - len(process.net_connections())
    return process.memory_info().rss, process.num_threads(), files


def sigterm(folder: Path, count: int) -> Outcome:
    """Four requests run when the signal comes."""
    outcome = Outcome(count)
    for number in range(count):
        with serving(folder) as process:
            answers: list[int] = []
            threads = [_ask(process.url, answers) for _ in range(4)]
            if not _until(lambda url=process.url: _admitted(url) == 4):
                outcome.failed.append(f"{number}: not admitted")
            process.signal(signal.SIGTERM)
            for thread in threads:
                thread.join()
            status = process.end()
        if answers != [200] * 4 or status != 0:
            outcome.failed.append(f"{number}: {answers}, exit status {status}")
    return outcome


def sigkill(folder: Path, count: int) -> Outcome:
    """The process is killed while it draws; the next one over the same cache draws."""
    outcome = Outcome(count)
    for number in range(count):
        with serving(folder) as process:
            answer = httpx.post(f"{process.url}/v1/images/generations", json=QUICK, timeout=60)
            if answer.status_code != 200:
                outcome.failed.append(f"{number}: {answer.text[:100]}")
            threads = [_ask(process.url, []) for _ in range(2)]
            _until(lambda url=process.url: _admitted(url) == 2)
            process.signal(signal.SIGKILL)
            process.end()
            for thread in threads:
                thread.join()
    return outcome


def _ask(url: str, answers: list[int]) -> threading.Thread:
    def send() -> None:
        body = {"prompt": "a fox", "num_inference_steps": 100}
        try:
            found = httpx.post(f"{url}/v1/images/generations", json=body, timeout=120)
            answers.append(found.status_code)
        except httpx.HTTPError:
            answers.append(0)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def _admitted(url: str) -> float:
    """The jobs that a service has taken in and not finished."""
    values = _metrics(url)
    return values["latentrt_requests_running"] + values["latentrt_queue_depth"]


def _metrics(url: str) -> dict[str, float]:
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    return {each.name: each.value for family in families for each in family.samples}


def _until(done: Callable[[], bool], seconds: float = 30) -> bool:
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def _bundle(folder: Path, configuration: str) -> Path:
    checkpoint = make_checkpoint(folder / "checkpoints" / configuration, configuration)
    export(checkpoint, folder / configuration)
    return folder / configuration


def measured(share: float, folder: Path) -> dict[str, Outcome]:
    """Every storm, at a share of its full size."""

    def size(full: int) -> int:
        return max(round(full * share), 4)

    found: dict[str, Outcome] = {}

    def note(name: str, outcome: Outcome) -> None:
        found[name] = outcome
        print(f"{name:12} {outcome.tried:5} tried, {len(outcome.failed)} failed", flush=True)

    models = heads, _ = _bundle(folder, "heads"), _bundle(folder, "lists")
    shelf = Shelf(models)
    with listening(service(shelf, Limits(steps=40, images=4))) as live:
        note("bad_bodies", bad_bodies(live))
        note("cancels", storms.cancels(live, size(100)))
        note("disconnects", storms.disconnects(live, size(100)))
        note("deadlines", storms.deadlines(live, size(100)))
    bodies = mixed(size(500), shelf.model_names)
    expected = alone(bodies, shelf)
    with one_size(*models, steps=40, images=4) as process:
        storms.burst(process.url, bodies[:20], expected[:20], clients=4)  # compiles what is missing
        _metrics(process.url)  # forgets how long the event loop was blocked so far
        outcome = storms.burst(process.url, bodies, expected, clients=min(50, len(bodies)))
        lag = _metrics(process.url)["latentrt_event_loop_lag_seconds"]
        outcome.figures["event_loop_blocked_seconds_at_most"] = lag
        if lag > 0.05:
            outcome.failed.append(f"the event loop was blocked for {lag:.3f} s")
        note("burst", outcome)
    with one_size(heads, drawing=4, queued=8) as process:
        note("overload", storms.overload(process.url, 120, places=12, timed=True))
    note("aborts", aborts(heads, size(2000)))
    note("sigterm", sigterm(heads, size(20)))
    note("sigkill", sigkill(heads, size(20)))
    return found


def page(found: Mapping[str, Outcome], device: str, commit: str) -> str:
    """The table for people."""
    rows = "\n".join(
        f"| {TITLES[name]} | {each.tried} | {len(each.failed)} | {_figures(each)} |"
        for name, each in found.items()
    )
    return f"""# Reliability

What a running service does when many requests, or bad ones, come at once. `make scorecard` writes
this page. The models are tiny and random. Device: {device}; commit {commit}.

| what | tried | failed | figures |
|---|---|---|---|
{rows}

`make test` tries faults of engines (NaN and exceptions in every component), bombs, slow clients,
keys and a damaged model.
"""


def _figures(outcome: Outcome) -> str:
    return ", ".join(f"{k.replace('_', ' ')} {v:.3g}" for k, v in outcome.figures.items())


def main() -> None:
    """Run everything, and write the two files."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=float, default=1.0, help="of the full sizes")
    share: float = parser.parse_args().share
    os.environ["LATENTRT_GRAPHS"] = str(TRACED)
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = Path(tempfile.mkdtemp(prefix="latentrt-scorecard-"))
    os.environ["LATENTRT_CACHE"] = str(folder / "cache")
    try:
        found = measured(share, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    git = ("git", "rev-parse", "--short", "HEAD")
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    device = f"{platform.machine()}, {os.cpu_count()} cores"
    if share == 1.0:
        JSON.write_text(
            json.dumps(
                {
                    "device": device,
                    "commit": commit,
                    "outcomes": {name: asdict(each) for name, each in found.items()},
                },
                indent=1,
            )
            + "\n"
        )
        PAGE.write_text(page(found, device, commit))
    for name, each in found.items():
        for line in each.failed[:5]:
            print(f"{name}: {line}", file=sys.stderr)
    sys.exit(any(each.failed for each in found.values()))


if __name__ == "__main__":
    main()

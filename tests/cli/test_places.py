"""Where `generate` puts pictures: nothing is replaced silently, and what cannot be is refused."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.cli.command import latentrt
from tests.cli.outcome import Run

from latentrt.cli.places import Free, check_writable

DRAW = ("a red circle", "--steps", 1, "--seed", 1)
OTHERS = (
    "a.png", "A.PNG", "out.jpg", "out-x.png", "xout-9.png", "out-7.png.bak"
)  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is where the command runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_o_no_picture_is_replaced(
    run: Run, bundle: Callable[[str], Path], place: Path
) -> None:
    for name in OTHERS:
        (place / name).write_text(name)
    common = ("generate", bundle("heads"), *DRAW)
    printed = [run(*common, *more).out.splitlines()[1:] for more in ((), (), ("--num-images", 2))]
    assert printed == [["out.png"], ["out-1.png"], ["out-2.png", "out-3.png"]]
    (place / "out.png").unlink()
    again = json.loads(run(*common, "--json").out)
    assert (again["files"], again["finished"]) == (["out.png"], True)
    assert [(place / name).read_text() for name in OTHERS] == list(OTHERS)
    with Image.open("out-2.png") as first, Image.open("out-3.png") as second:
        assert np.array_equal(np.asarray(first), np.asarray(Image.open("out-1.png")))
        assert not np.array_equal(np.asarray(first), np.asarray(second))


def test_many_that_draw_at_once_take_a_number_each(place: Path) -> None:
    result: Any = SimpleNamespace(encode=lambda index, kind: str(index).encode())
    taken: list[Path] = []

    def draw(number: int) -> None:
        taken.append(Free(Path("out.png"), 1).write(number, result))

    threads = [threading.Thread(target=draw, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(taken)) == 12
    assert sorted(int(p.read_bytes()) for p in place.iterdir()) == list(range(12))


def test_a_given_name_is_replaced(run: Run, bundle: Callable[[str], Path], place: Path) -> None:
    (place / "x.png").write_text("old")
    assert run("generate", bundle("heads"), *DRAW, "-o", "x.png").status == 0
    assert os.listdir() == ["x.png"]
    with Image.open("x.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("name", "kind"), [("x.JPG", "JPEG"), ("x.jpeg", "JPEG"), ("x.webp", "WEBP")]
)
def test_the_end_of_a_name_decides_the_format(
    run: Run, bundle: Callable[[str], Path], place: Path, name: str, kind: str
) -> None:
    assert run("generate", bundle("heads"), *DRAW, "-o", name).status == 0
    with Image.open(place / name) as picture:
        assert picture.format == kind


def test_a_dash_is_standard_output_and_everything_else_is_not(
    bundle: Callable[[str], Path], place: Path
) -> None:
    common = ("generate", bundle("heads"), *DRAW)
    done = latentrt(*common, "-o", "-")
    assert done.returncode == 0
    drawn = latentrt(*common, "-o", "x.png")
    assert done.stdout == (place / "x.png").read_bytes() != b""
    assert b"seed 1, 1 steps" in done.stderr
    assert b"seed 1, 1 steps" in drawn.stdout
    assert latentrt(*common, "-o", "-", stdout=subprocess.DEVNULL).returncode == 0
    reading, writing = os.pipe()
    os.close(reading)
    assert latentrt(*common, "-o", "-", stdout=writing).returncode == 0
    os.close(writing)
    if os.path.exists("/dev/full"):
        with open("/dev/full", "wb") as full:
            lost = latentrt(*common, "-o", "-", stdout=full)
        assert lost.returncode == 1
        assert lost.stderr.endswith(b"latentrt: standard output: No space left on device\n")
    assert os.listdir() == ["x.png"]


REFUSED = [
    ("-o", "x"),
    ("-o", "x.gif"),
    ("-o", ".png"),
    ("-o", ""),
    ("-o", "-", "--num-images", 2),
    ("-o", "-", "--json"),
    ("-o", "folder.png"),
    ("--num-images", 2, "-o", "numbered.png"),
    ("-o", "x" * 300 + ".png"),
    ("-o", "device.png"),
    ("--save-latents", os.devnull),
    ("--save-latents", "-"),
    ("-o", "a.png", "--save-latents", "a.png"),
    ("-o", "a.png", "--save-latents", "./sub/../a.png"),
    ("-o", "a.png", "--save-latents", "link.png"),
    ("-o", "a.png", "--num-images", 2, "--save-latents", "a-0.png"),
    ("--save-latents", "out.png"),
    ("--num-images", 2, "--save-latents", "out-1.png"),
    ("--latents", "n.npy", "--save-latents", "n.npy"),
    ("--latents", "n.png", "-o", "n.png"),
    ("--from", "source.png", "-o", "source.png"),
    ("--from", "source.png", "-o", "to-source.png"),
    ("--from", "source-1.png", "-o", "source.png", "--num-images", 2),
    ("-o", "bundle/x.png"),
    ("-o", "bundle/new/x.png"),
    ("-o", "x.png", "--save-latents", "bundle/weights/x.npy"),
]


@pytest.mark.parametrize("options", REFUSED, ids=lambda o: " ".join(map(str, o))[:60])
def test_overwriting_a_file_is_refused_before_anything_is_drawn(
    run: Run,
    bundle: Callable[[str], Path],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[object, ...],
) -> None:
    monkeypatch.setattr("latentrt.runtime.pipeline.Pipeline.run", None)
    source = bundle("heads").parent / "picture.png"
    if not source.exists():
        with monkeypatch.context() as patch:
            patch.undo()
            assert latentrt("generate", bundle("heads"), *DRAW, "-o", source).returncode == 0
    for name in ("source.png", "source-1.png"):
        (place / name).write_bytes(source.read_bytes())
    (place / "link.png").symlink_to("a.png")
    (place / "to-source.png").symlink_to("source.png")
    (place / "device.png").symlink_to(os.devnull)
    (place / "bundle").symlink_to(bundle("heads"))
    for folder in ("folder.png", "numbered-1.png", "sub"):
        (place / folder).mkdir()
    for name in ("n.npy", "n.png"):
        with open(name, "wb") as file:
            np.save(file, np.zeros((1, 4, 8, 8), np.float32))
    before = sorted(place.rglob("*")), sorted(bundle("heads").rglob("*"))
    done = run("generate", "bundle", *DRAW, *options)
    assert done.status == 2, done.err
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith(
        ("latentrt: output: ", "latentrt: save-latents: ", "latentrt: json: ")
    )
    assert (sorted(place.rglob("*")), sorted(bundle("heads").rglob("*"))) == before


def npy(descr: str, shape: str, content: bytes = b"") -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00v\x00" + header.ljust(117).encode() + b"\n" + content


WHOLE = np.zeros((1, 4, 8, 8), np.float32).tobytes()
BROKEN = {
    "empty": b"",
    "huge": npy("<f4", "(1, 4, 99999, 99999)"),
    "overflowing": npy("<f4", "(1, 4, 9999999999, 9999999999)"),
    "negative": npy("<f4", "(1, -4, 8, 8)", WHOLE),
    "truncated": npy("<f4", "(1, 4, 8, 8)", WHOLE[:-4]),
    "big-endian": npy(">f4", "(1, 4, 8, 8)", WHOLE),
    "float64": npy("<f8", "(1, 4, 8, 8)", WHOLE * 2),
    "flat": npy("<f4", "(256,)", WHOLE),
    "objects": npy("|O", "(1,)", pickle.dumps([1])),
    "no header": b"\x93NUMPY\x01\x00v\x00" + b"(" * 118,
    "future": b"\x93NUMPY\x09\x00v\x00",
    "pickle": pickle.dumps(np.zeros(3)),
    "text": b"hello",
}


@pytest.mark.parametrize("kind", [*BROKEN, "npz", "folder", "missing", "fifo"])
def test_bad_latents_are_named_in_one_line(run: Run, place: Path, kind: str) -> None:
    path = place / "l.npy"
    if kind in BROKEN:
        path.write_bytes(BROKEN[kind])
    elif kind == "npz":
        with open(path, "wb") as file:
            np.savez(file, a=np.zeros(1))
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    done = run("generate", "bundle", "x", "--latents", path)
    assert (done.status, len(done.err.splitlines())) == (2, 1), done.err
    assert done.err.startswith(f"latentrt: {path}: ")


def test_seed_minus_one_is_a_random_one(
    run: Run, bundle: Callable[[str], Path], place: Path
) -> None:
    common = ("generate", bundle("heads"), "a", "--steps", 1, "--seed", -1, "--json")
    seeds = {json.loads(run(*common).out)["request"]["seed"] for _ in range(2)}
    assert len(seeds) == 2
    assert all(seed >= 0 for seed in seeds)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_picture_that_does_not_fit_on_the_disk_is_named(
    bundle: Callable[[str], Path], place: Path
) -> None:
    import resource

    (place / "x-1.png").write_text("old")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))

    done = latentrt("generate", bundle("heads"), *DRAW, "-o", "x.png", preexec_fn=limit)
    assert done.returncode == 2
    assert b"x.png" in done.stderr.splitlines()[-1]
    assert b"File too large" in done.stderr.splitlines()[-1]
    assert os.listdir() == ["x-1.png"]


def test_the_longest_name_that_a_file_can_have_is_writable(place: Path) -> None:
    check_writable("output", place / f"{'a' * 251}.png")
    assert list(place.iterdir()) == []

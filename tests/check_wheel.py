"""Install the wheel alone in a fresh environment and run it there: `make check` does this last.

It checks six things. The wheel contains every room, each with its types, and a user's program
passes pyright in strict mode. The base dependencies suffice for `latentrt doctor`. With
`[onnxruntime]` beside them models/shapes draws a picture, as a folder and as a single file. So does
a tiny random single file of every family. With `[serve]` it draws over HTTP. None of this needs
what only tracing needs.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import venv
import zipfile
from pathlib import Path

from PIL import Image
from tests.conftest import ROOT, TRACED, make_checkpoint
from tests.single_file import write_single_file

ROOMS = (
    "bundle",
    "graphs",
    "weights",
    "engines",
    "runtime",
    "export",
    "benchmarks",
    "serving",
    "cli",
)
NOT_IN_BASE = ("torch", "onnx", "diffusers", "transformers")
FAMILIES = {
    "sd15": ("heads", "epsilon"),
    "sd2-base": ("lists", "epsilon"),
    "sd21": ("lists", "v_prediction"),
    "lcm": ("lcm", "epsilon"),
    "sdxl": ("xl", "epsilon"),
    "ssd-1b": ("ssd", "epsilon"),
    "sd15-inpainting": ("heads9", "epsilon"),
    "sd15-pix2pix": ("heads8", "epsilon"),
    "sd2-depth": ("lists5", "epsilon"),
    "sdxl-inpainting": ("xl9", "epsilon"),
    "sdxl-refiner": ("refiner", "epsilon"),
}
"""By family, the tiny checkpoint that stands for it, and what its U-Net predicts."""

INSTALLED = """
import importlib.util, sys
print(*[name for name in sys.argv[1:] if importlib.util.find_spec(name)])
"""

# Draws from each file, with the configs in the folder of its name; prints what was imported.
DRAWN = """
import sys
from pathlib import Path
from PIL import Image
from latentrt.runtime import DepthToImage, ImageToImage, Inpainting, InstructPix2Pix
from latentrt.runtime import Pipeline, Request, Sampling, Size, TextToImage
from latentrt.runtime.conversion.options import CheckpointOptions
image, grey = Image.new("RGB", (64, 64), "teal"), Image.radial_gradient("L").resize((64, 64))
tasks = {
    "inpainting": Inpainting(image, grey),
    "pix2pix": InstructPix2Pix(image),
    "depth": DepthToImage(image, grey),
    "refiner": ImageToImage(image),
}
for file in map(Path, sys.argv[1:]):
    options = CheckpointOptions(configs=file.with_suffix(""))
    with Pipeline.open(file, engine="onnxruntime", checkpoint=options) as pipeline:
        sampling = Sampling(steps=2)
        task = tasks.get(file.stem.rpartition("-")[2], TextToImage())
        asked = Request("a red circle", seed=1, size=Size(64, 64), sampling=sampling, task=task)
        result = pipeline(asked)
    result.save(file.with_suffix(".png"))
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""

# A user's program, in which a type checker finds nothing.
RIGHT = """
import asyncio
from pathlib import Path

from latentrt.runtime import Guidance, ImageToImage, LatentrtError, Pipeline, QueueFull
from latentrt.runtime import Request, Result, Sampling, Size

STEPS = 20


def requests(prompts: list[str]) -> list[Request]:
    sampling = Sampling("dpmpp_2m", schedule="karras", steps=STEPS)
    guidance = Guidance(lambda sigma: 5.0 + sigma / 14.6, rescale=0.7)
    return [
        Request(prompt, seed=i, size=Size(512, 768), sampling=sampling, guidance=guidance)
        for i, prompt in enumerate(prompts)
    ]


def shapes(result: Result) -> list[tuple[int, int]]:
    assert result.latents.ndim == 4
    return [image.size for image in result.images]


async def served(pipeline: Pipeline, prompts: list[str]) -> list[Result]:
    with pipeline.batcher(batch_sizes=(8,), queue=64) as batcher:
        try:
            runs = [batcher.submit(each, deadline=60.0) for each in requests(prompts)]
        except QueueFull as error:
            raise SystemExit(f"try later: {error}") from error
        return await asyncio.gather(*(asyncio.wrap_future(run.future) for run in runs))


def main(bundle: Path, folder: Path) -> None:
    with Pipeline.open(bundle, engine="openvino", options={"threads": 4}) as pipeline:
        for number, result in enumerate(asyncio.run(served(pipeline, ["a fox", "a boat"]))):
            result.save(folder / f"{number}.png")
            print(shapes(result), result.request.seed, result.seconds.total)
        with pipeline.run(requests(["a fox"])[0]) as run:
            for step in run:
                step.preview().save(folder / "preview.png")
        try:
            task = ImageToImage(run.result().images[0], strength=0.6)
            pipeline(Request("a fox in snow", task=task)).save(folder / "snow.png")
        except LatentrtError as error:
            print(error)
"""

# Another, with what a type checker finds in it.
WRONG = """
from latentrt.runtime import Pipeline, Request

pipeline = Pipeline.open(3.5)
result: int = pipeline(Request("a red circle"))
Request(5, seed="x")
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Return what the command wrote to standard output; show everything and exit if it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(
            f"{' '.join(map(str, command))}: exit status {done.returncode}\n"
            f"{done.stdout}{done.stderr}"
        )
    return done.stdout


def write_families(folder: Path) -> dict[str, Path]:
    """A tiny random single file of each family; its configs lie in a folder of the same name."""
    found: dict[str, Path] = {}
    for family, (configuration, prediction) in FAMILIES.items():
        checkpoint = make_checkpoint(folder / "checkpoints" / family, configuration)
        stated = checkpoint / "scheduler" / "scheduler_config.json"
        scheduler = {**json.loads(stated.read_text()), "prediction_type": prediction}
        stated.write_text(json.dumps(scheduler))
        found[family] = write_single_file(checkpoint, folder / f"{family}.safetensors")
        weights = shutil.ignore_patterns("*.safetensors")
        shutil.copytree(checkpoint, folder / family, ignore=weights)
    return found


def check_families(folder: Path, python: Path) -> None:
    """Exit unless a single file of each family becomes a picture, by none of NOT_IN_BASE."""
    files = write_families(folder)
    os.environ["LATENTRT_GRAPHS"] = str(TRACED)
    loaded = set(run(python, "-c", DRAWN, *files.values(), cwd=folder).split())
    if found := loaded.intersection(NOT_IN_BASE):
        sys.exit(f"drawing from single files loads {', '.join(sorted(found))}")
    pictures = [Image.open(file.with_suffix(".png")).tobytes() for file in files.values()]
    if len(set(pictures)) < len(pictures):
        sys.exit("two families' single files draw the same picture")


def check_service(folder: Path, python: Path, prompt: str) -> Image.Image:
    """The picture that `latentrt serve` gives over HTTP; exits where it gives none."""
    command = (python.parent / "latentrt", "serve", ROOT / "models" / "shapes", "--port", "0")
    missing = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if missing.returncode != 1 or "pip install 'latentrt[serve]'" not in missing.stderr:
        sys.exit(f"without [serve], serve ends with {missing.returncode}: {missing.stderr}")
    (wheel,) = folder.glob("*.whl")
    constraints = ("-c", ROOT / "constraints.txt")
    run(python, "-m", "pip", "install", "-qq", f"{wheel}[serve]", *constraints, cwd=folder)
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            told = [process.stderr.readline(), process.stderr.readline()]
            if told[1] != "latentrt: ready\n":
                sys.exit(f"serve does not start: {told}")
            body = {"prompt": prompt, "seed": 7, "response_format": "b64_json"}
            request = urllib.request.Request(
                told[0].split()[1] + "v1/images/generations",
                json.dumps(body).encode(),
                {"content-type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=120) as answer:
                coded = json.load(answer)["data"][0]["b64_json"]
        finally:
            process.terminate()
    return Image.open(io.BytesIO(base64.b64decode(coded)))


def size_of(folder: Path) -> int:
    """What the files below a folder take, in megabytes; pip itself, which is no part, left out."""
    files = (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return round(sum(p.stat().st_size for p in files if "pip" not in p.parts) / 1e6)


def check_types(wheel: Path, folder: Path, python: Path) -> None:
    """Exit unless a type checker finds the types of the installed wheel, and what is wrong."""
    names = set(zipfile.ZipFile(wheel).namelist())
    missing = [room for room in ROOMS if f"latentrt/{room}/py.typed" not in names]
    if missing:
        sys.exit(f"{wheel.name}: no py.typed in {', '.join(missing)}")
    for data in ("weights/clip_merges.xz", "graphs/shipped/index.json", "serving/page/index.html"):
        if f"latentrt/{data}" not in names:
            sys.exit(f"{wheel.name}: no {data}")
    programs = folder / "programs"
    programs.mkdir()
    (programs / "right.py").write_text(RIGHT)
    (programs / "wrong.py").write_text(WRONG)
    settings = {"typeCheckingMode": "strict", "include": ["right.py", "wrong.py"]}
    (programs / "pyrightconfig.json").write_text(json.dumps(settings))
    pyright = Path(sys.executable).parent / "pyright"
    command = (pyright, "--outputjson", "--pythonpath", python)
    done = subprocess.run(command, cwd=programs, capture_output=True, text=True, check=False)
    found = {
        (Path(entry["file"]).name, entry["range"]["start"]["line"], entry.get("rule", ""))
        for entry in json.loads(done.stdout)["generalDiagnostics"]
    }
    rules = {3: "reportArgumentType", 4: "reportAssignmentType", 5: "reportArgumentType"}
    expected = {("wrong.py", line, rule) for line, rule in rules.items()}
    if found != expected:
        sys.exit(f"{wheel.name}: a type checker finds {sorted(found)}, not {sorted(expected)}")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="latentrt-wheel-") as name:
        folder = Path(name)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, cwd=folder)
        (wheel,) = folder.glob("*.whl")

        venv.create(folder / "env", with_pip=True)
        binaries = folder / "env" / "bin"
        install = ("-m", "pip", "install", "-qq", "--disable-pip-version-check")
        run(binaries / "python", *install, wheel, "-c", ROOT / "constraints.txt", cwd=folder)

        check_types(wheel, folder, binaries / "python")
        run(binaries / "latentrt", "doctor", cwd=folder)
        base = size_of(folder / "env")
        run(
            binaries / "python",
            *install,
            f"{wheel}[onnxruntime]",
            "-c",
            ROOT / "constraints.txt",
            cwd=folder,
        )
        os.environ["LATENTRT_CACHE"] = str(folder / "cache")
        shapes = ROOT / "models" / "shapes"
        write_single_file(shapes, folder / "shapes.safetensors")
        generate = (binaries / "latentrt", "generate")
        prompt = "a large red circle on a blue background"
        run(*generate, shapes, prompt, "--seed", "7", "-o", "folder.png", cwd=folder)
        file = ("shapes.safetensors", "--configs", shapes)
        run(*generate, *file, prompt, "--seed", "7", "-o", "file.png", cwd=folder)
        pictures = [Image.open(folder / f"{name}.png").tobytes() for name in ("folder", "file")]
        if pictures[0] != pictures[1]:
            sys.exit(f"{wheel.name}: a single file and its folder draw two pictures")
        check_families(folder, binaries / "python")
        drawing = size_of(folder / "env")
        served = check_service(folder, binaries / "python", prompt)
        if served.tobytes() != pictures[0]:
            sys.exit(f"{wheel.name}: serve draws another picture than generate")
        found = run(binaries / "python", "-c", INSTALLED, *NOT_IN_BASE, cwd=folder).split()
        if found:
            sys.exit(f"{wheel.name}: the installation brings in {', '.join(found)}")
        sizes = {"base_mb": base, "onnxruntime_mb": drawing}
        if len(sys.argv) > 1:
            Path(sys.argv[1]).write_text(json.dumps(sizes, indent=1) + "\n")
        print(
            f"{wheel.name}: doctor runs on the base installation ({base} MB), generate with "
            f"[onnxruntime] ({sizes['onnxruntime_mb']} MB); none of {', '.join(NOT_IN_BASE)} needed"
        )


if __name__ == "__main__":
    main()

"""`latentrt`: every command, and what an error becomes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from latentrt.bundle.errors import FileError, InputError, LatentrtError, VerificationFailed
from latentrt.cli.progress import Bars

BAD_INPUT, FAILURE, OUT_OF_TOLERANCE, INTERRUPTED = 2, 1, 3, 130

app = typer.Typer(
    name="latentrt",
    help="Stable Diffusion in production without PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder made by export.")]
EngineOption = Annotated[str, typer.Option(help="auto, or one that `latentrt doctor` lists.")]
PrecisionOption = Annotated[
    str, typer.Option(help="What engines compute in: fp32, fp16, bf16; auto: the engine's own.")
]
ComponentOption = Annotated[
    list[str] | None,
    typer.Option(help="NAME=ENGINE, =PRECISION or =ENGINE:PRECISION for one of the components."),
]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads of an engine call.")]
StreamsOption = Annotated[int | None, typer.Option(help="Calls that share the CPU's threads.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


def main() -> None:
    """Run the command line; errors become one line and an exit status."""
    try:
        status: Any = app(standalone_mode=False)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except (InputError, FileError) as error:
        _fail(str(error), BAD_INPUT)
    except VerificationFailed as error:
        _fail(str(error), OUT_OF_TOLERANCE)
    except LatentrtError as error:
        _fail(str(error), FAILURE)
    except typer.Abort:
        _fail("interrupted", INTERRUPTED)
    except OSError as error:
        _fail(f"{error.filename or 'system'}: {error.strerror or error}", FAILURE)
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own usage errors
            _fail(str(error.format_message()), BAD_INPUT)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
        raise
    # An exit that a command asked for, or an interrupt, comes back as its status.
    if status == INTERRUPTED:
        _fail("interrupted", INTERRUPTED)
    if status:
        sys.exit(status)


def _fail(message: str, status: int) -> NoReturn:
    print(f"latentrt: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


@app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(help="A folder, or random:sd15, :sd21, :sdxl.")],
    bundle: Annotated[Path, typer.Argument(help="The folder to make.")],
    dtype: Annotated[str, typer.Option(help="How weights are stored: fp32, fp16, bf16.")] = "fp32",
    golden: Annotated[bool, typer.Option(help="Store PyTorch's outputs for compare.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a checkpoint into a bundle. Needs PyTorch: pip install 'latentrt[export]'."""
    try:
        from latentrt.export.export import export as run
    except ImportError as error:
        raise LatentrtError(f"{error.name} is missing: pip install 'latentrt[export]'") from error
    with Bars(Console(stderr=True), quiet=as_json) as bars:
        run(checkpoint, bundle, dtype=dtype, golden=golden, force=force, progress=bars)
    if as_json:
        print(json.dumps({"bundle": str(bundle), "goldens": golden, "dtype": dtype}))
        return
    if not golden:
        print("no goldens stored: `compare` will have nothing to hold this bundle against")
    print(bundle)


@app.command()
def generate(
    context: typer.Context,
    bundle: BundleArgument,
    prompt: Annotated[str | None, typer.Argument(help="What to draw.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="A PNG.")] = Path("out.png"),
    negative_prompt: Annotated[str | None, typer.Option(help="What not to draw.")] = None,
    steps: Annotated[int, typer.Option(help="Sampler steps.")] = 20,
    guidance_scale: Annotated[float, typer.Option(help="1 or less: none.")] = 7.5,
    guidance_rescale: Annotated[float, typer.Option(help="0 to 1.")] = 0.0,
    guidance_interval: Annotated[
        str | None, typer.Option(help="LOW,HIGH: guide only at these noise levels.")
    ] = None,
    compose: Annotated[
        list[str] | None, typer.Option(help="PROMPT=WEIGHT: one more prompt; may be repeated.")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="See `latentrt samplers`. [default: the checkpoint's]"),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="karras, trailing, ... [default: the checkpoint's]"),
    ] = None,
    eta: Annotated[
        float | None,
        typer.Option(help="Share of fresh noise, 0 to 1. [default: the sampler's]"),
    ] = None,
    rho: Annotated[
        float | None, typer.Option(help="Exponent of karras and polyexponential levels.")
    ] = None,
    timesteps: Annotated[
        str | None, typer.Option(help="Timesteps to visit, such as 999,700,400,100.")
    ] = None,
    sigmas: Annotated[
        str | None, typer.Option(help="Noise levels to visit and to end on, such as 14,3,0.5,0.")
    ] = None,
    brownian: Annotated[
        bool,
        typer.Option("--brownian/--no-brownian", help="Noise of SDE samplers from one path."),
    ] = False,
    generator: Annotated[
        str,
        typer.Option(help="Whose numbers a seed gives: torch, numpy or torch-cuda (unverified)."),
    ] = "torch",
    seed: Annotated[int | None, typer.Option(help="[default: drawn and reported]")] = None,
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT in pixels. [default: the checkpoint's]")
    ] = None,
    num_images: Annotated[int, typer.Option(help="Image i uses seed + i.")] = 1,
    clip_skip: Annotated[int, typer.Option(help="Last text layers to leave out.")] = 0,
    original_size: Annotated[str | None, typer.Option(help="SDXL is told WIDTHxHEIGHT.")] = None,
    crop: Annotated[str, typer.Option(help="SDXL is told TOP,LEFT.")] = "0,0",
    target_size: Annotated[str | None, typer.Option(help="SDXL is told WIDTHxHEIGHT.")] = None,
    latents: Annotated[Path | None, typer.Option(help="Starting noise, a .npy.")] = None,
    save_latents: Annotated[Path | None, typer.Option(help="Write the starting noise.")] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Make this PNG's picture again, but for other options given."),
    ] = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    component: ComponentOption = None,
    threads: ThreadsOption = None,
    streams: StreamsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw pictures from a bundle; prints their paths last."""
    from latentrt.cli.again import again, check_place
    from latentrt.cli.generate import load_latents, make
    from latentrt.cli.values import assignments, corner, interval, numbers, weighted
    from latentrt.engines.engine import Options
    from latentrt.runtime import Guidance, Request, Sampling, Size

    if prompt is None and source is None:
        raise InputError("prompt", "text, or --from a picture", "neither")
    request = Request(
        prompt or "",
        negative_prompt=negative_prompt,
        size=None if size is None else Size.parse(size),
        num_images=num_images,
        seed=seed,
        sampling=Sampling(
            sampler,
            schedule=schedule,
            steps=steps,
            eta=eta,
            rho=rho,
            timesteps=None if timesteps is None else numbers("timesteps", timesteps),
            sigmas=None if sigmas is None else numbers("sigmas", sigmas),
            brownian=brownian,
        ),
        guidance=Guidance(
            guidance_scale,
            rescale=guidance_rescale,
            interval=None
            if guidance_interval is None
            else interval("guidance-interval", guidance_interval),
        ),
        clip_skip=clip_skip,
        latents=None if latents is None else load_latents(latents),
        composed=[weighted("compose", text) for text in compose or ()],
        generator=generator,
        original_size=None if original_size is None else Size.parse(original_size),
        crop=corner("crop", crop),
        target_size=None if target_size is None else Size.parse(target_size),
    )
    if source is not None:
        given = _given(context)
        check_place(source, output, given)
        request = again(source, request, given)
    make(
        bundle,
        request,
        output,
        save_latents=save_latents,
        engine=engine,
        options=Options(precision=precision, threads=threads, streams=streams),
        components=assignments("component", component or ()),
        as_json=as_json,
    )


def _given(context: typer.Context) -> frozenset[str]:
    """The options that the command line has, however equal to their defaults."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return frozenset(n for n, s in sources.items() if s is not None and s.name == "COMMANDLINE")


@app.command()
def samplers(as_json: JsonOption = False) -> None:
    """List the samplers and the schedules that each of them takes."""
    from latentrt.cli.samplers import list_samplers, print_samplers

    found = list_samplers()
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print_samplers(found)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A bundle, or a diffusers folder.")],
    verify: Annotated[bool, typer.Option("--verify", help="Hash every file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a bundle or checkpoint is, and how that was inferred."""
    from latentrt.cli.inspect import describe, print_description

    description = describe(path, verify=verify)
    if as_json:
        print(json.dumps(description, indent=2))
    else:
        print_description(description)


@app.command()
def build(
    bundle: BundleArgument,
    engine: EngineOption = "auto",
    size: Annotated[
        list[str] | None,
        typer.Option(help="WIDTHxHEIGHT; may be repeated. [default: the checkpoint's]"),
    ] = None,
    batch: Annotated[str, typer.Option(help="U-Net rows of a call, such as 1,2,4,8.")] = "1,2",
    precision: PrecisionOption = "auto",
    component: ComponentOption = None,
    threads: ThreadsOption = None,
    streams: StreamsOption = None,
    arena: Annotated[bool, typer.Option(help="Keep freed memory for the next call.")] = True,
    target: Annotated[
        str | None, typer.Option(help="TensorRT: build for another GPU, such as sm89.")
    ] = None,
    level: Annotated[int, typer.Option(help="TensorRT: 0 to 5, how hard to optimise.")] = 3,
    stripped: Annotated[
        bool, typer.Option("--stripped", help="TensorRT: store plans without weights.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compile, verify and store engines ahead. Exit status 3: one is out of tolerance."""
    from latentrt.cli.build import build as run
    from latentrt.cli.build import print_rows
    from latentrt.cli.values import assignments, counts
    from latentrt.engines.engine import Options
    from latentrt.runtime import Size

    with Bars(Console(stderr=True), quiet=as_json) as bars:
        rows = run(
            bundle,
            [Size.parse(text) for text in size or ()],
            counts("batch", batch),
            engine=engine,
            options=Options(
                precision=precision,
                threads=threads,
                streams=streams,
                arena=arena,
                target=target,
                level=level,
                stripped=stripped,
            ),
            components=assignments("component", component or ()),
            progress=bars,
        )
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        print_rows(rows)


@app.command()
def cache(
    remove: Annotated[bool, typer.Option("--remove", help="Remove everything.")] = False,
    limit: Annotated[
        str | None, typer.Option(help="Remove the longest unused beyond this, such as 5GB.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the compiled engines that are stored, and remove them."""
    from latentrt.cli.cache import manage, print_cache

    found = manage(remove=remove, limit=limit)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print_cache(found)


@app.command()
def compare(
    bundle: BundleArgument,
    engine: Annotated[
        str, typer.Option(help="auto, one that `latentrt doctor` lists, or all that are verified.")
    ] = "auto",
    precision: PrecisionOption = "auto",
    component: ComponentOption = None,
    threads: ThreadsOption = None,
    streams: StreamsOption = None,
    layers: Annotated[bool, typer.Option("--layers", help="Every layer; needs PyTorch.")] = False,
    live: Annotated[bool, typer.Option("--live", help="Ask PyTorch now; needs it.")] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Whose weights PyTorch takes: a checkpoint or a bundle. [default: BUNDLE]"
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="With --live: what to draw; may be repeated.")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="With --live: the noise; may be repeated.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="With --live: Euler's steps.")] = None,
    size: Annotated[str | None, typer.Option(help="With --live: WIDTHxHEIGHT.")] = None,
    adherence: Annotated[
        int | None, typer.Option(help="models/shapes: pictures to judge by what was asked for.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with charts and pictures.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Hold engines against PyTorch's answers. Exit status 3: out of tolerance."""
    from latentrt.cli.compare import Engines, Wanted, write_page
    from latentrt.cli.compare import compare as run
    from latentrt.cli.generate import check_writable
    from latentrt.cli.report import print_findings
    from latentrt.cli.values import assignments
    from latentrt.engines.engine import Options
    from latentrt.runtime import Size

    options = Options(precision=precision, threads=threads, streams=streams)
    engines = Engines(engine, options, assignments("component", component or ()))
    wanted = Wanted(
        layers=layers,
        live=live,
        checkpoint=checkpoint,
        prompts=prompt or (),
        seeds=seed or (),
        steps=steps,
        size=None if size is None else Size.parse(size),
        adherence=adherence,
    )
    if html is not None:
        check_writable(html)
    with Bars(Console(stderr=True), quiet=as_json) as bars:
        findings = run(bundle, engines, wanted, bars)
    if html is not None:
        write_page(html, findings)
    if as_json:
        print(json.dumps(findings.to_json(several=engines.several), indent=2))
    else:
        print_findings(findings, several=engines.several)
    if not findings.passed:
        raise typer.Exit(OUT_OF_TOLERANCE)


@app.command()
def bench(
    bundle: BundleArgument,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    component: ComponentOption = None,
    threads: ThreadsOption = None,
    streams: StreamsOption = None,
    prompt: Annotated[str, typer.Option(help="What to draw.")] = "a red circle",
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT in pixels. [default: the checkpoint's]")
    ] = None,
    steps: Annotated[int, typer.Option(help="Sampler steps.")] = 20,
    guidance_scale: Annotated[float, typer.Option(help="1 or less: none.")] = 7.5,
    sampler: Annotated[
        str | None, typer.Option(help="See `latentrt samplers`. [default: the checkpoint's]")
    ] = None,
    runs: Annotated[int, typer.Option(help="Pictures after warm-up, at the least.")] = 20,
    limit: Annotated[
        float, typer.Option(help="Seconds after which no more are drawn, settled or not.")
    ] = 120.0,
    cold: Annotated[bool, typer.Option(help="Start from nothing too, in new processes.")] = True,
    ceilings: Annotated[bool, typer.Option(help="Measure what the machine can do.")] = True,
    batch: Annotated[str, typer.Option(help="Batches that requests share; 0: none.")] = "1,2,4,8",
    requests: Annotated[int, typer.Option(help="Requests that each batch size serves.")] = 16,
    arrivals: Annotated[
        int, typer.Option(help="Requests of each rate of random arrivals; 0: none.")
    ] = 0,
    against: Annotated[
        list[str] | None,
        typer.Option(help="Draw in turns with this library too, or with all; may be repeated."),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="What the bundle was exported from, for --against.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Pictures of everybody in --against.")] = 10,
    compare_with: Annotated[
        Path | None, typer.Option("--compare", help="An earlier report: a verdict on each row.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page that needs nothing else.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how fast a bundle draws here, and how far that is from the limit."""
    from latentrt.benchmarks.bench import Plan, measure
    from latentrt.benchmarks.subject import Subject
    from latentrt.cli.bench import beside, contest, peers, print_report, print_verdicts, read_runs
    from latentrt.cli.values import assignments, counts
    from latentrt.engines.engine import Options
    from latentrt.runtime import Guidance, Request, Sampling, Size

    old = None if compare_with is None else read_runs(compare_with)
    others = peers(against or ())
    subject = Subject(
        bundle=bundle,
        engine=engine,
        options=Options(precision=precision, threads=threads, streams=streams),
        components=assignments("component", component or ()),
        request=Request(
            prompt,
            seed=0,
            size=None if size is None else Size.parse(size),
            sampling=Sampling(sampler, steps=steps),
            guidance=Guidance(guidance_scale),
        ),
    )
    plan = Plan(
        runs=runs,
        limit=limit,
        cold=cold,
        ceilings=ceilings,
        batches=() if batch == "0" else counts("batch", batch),
        requests=requests,
        arrivals=arrivals,
    )
    with Bars(Console(stderr=True), quiet=as_json) as bars:
        report = measure(subject, plan, bars)
    found = () if old is None else beside(report, old)
    standings = contest(report, bundle, checkpoint, others, rounds) if against else None
    if plot is not None or html is not None:
        from latentrt.benchmarks.plot import write_html, write_png

        if plot is not None:
            write_png(report, plot)
        if html is not None:
            write_html(report, found, html)
    if as_json:
        verdicts = [verdict.to_json() for verdict in found]
        turns = None if standings is None else standings.to_json()
        print(json.dumps({**report.to_json(), "verdicts": verdicts, "against": turns}))
        return
    print_report(report)
    if standings is not None:
        print(f"\nin turns with others\n{standings}")
    if compare_with is not None:
        print_verdicts(found, compare_with)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say which engines and devices work here, and what is unverified."""
    from latentrt.cli.doctor import diagnose, print_diagnosis

    diagnosis = diagnose()
    if as_json:
        print(json.dumps(diagnosis, indent=2))
    else:
        print_diagnosis(diagnosis)

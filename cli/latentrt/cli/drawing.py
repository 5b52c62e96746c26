"""The commands for drawing: generate, samplers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from latentrt.bundle.errors import InputError
from latentrt.cli.options import (
    BundleArgument,
    ComponentOption,
    ConfigsOption,
    EmaOption,
    EngineOption,
    EngineOptionsOption,
    JsonOption,
    MaxPixelsOption,
    PrecisionOption,
    PredictionTypeOption,
    SyntaxOption,
    TextEncoderOption,
    VariantOption,
    VerifyOption,
)
from latentrt.runtime.prompts.syntax import WEBUI, check_syntax


def generate(
    context: typer.Context,
    bundle: BundleArgument,
    prompt: Annotated[str | None, typer.Argument(help="What to draw.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help=".png, .jpg or .webp, replaced if it exists; -: a PNG on standard output."
            " [default: out.png, or the next free number]",
        ),
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What not to draw.")] = None,
    syntax: SyntaxOption = WEBUI,
    image: Annotated[Path | None, typer.Option(help="Begin with this picture.")] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="Share of the steps taken from --image, above 0 to 1. [default: 0.8; --mask: 1]"
        ),
    ] = None,
    counting: Annotated[
        str | None,
        typer.Option(
            help="How --strength counts steps: diffusers, webui (one more) or exact (all of them)."
            " [default: diffusers]"
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Inpainting: redraw --image where this is white.")
    ] = None,
    mask_invert: Annotated[
        bool | None, typer.Option("--mask-invert", help="Draw where the mask is black.")
    ] = None,
    mask_blur: Annotated[
        float | None,
        typer.Option(help="Blur the mask's edge, a radius in pixels. [default: 0]"),
    ] = None,
    mask_soft: Annotated[
        bool | None, typer.Option("--mask-soft", help="Keep a share where the mask is grey.")
    ] = None,
    mask_fill: Annotated[
        str | None,
        typer.Option(
            help="Begin the white part with: original, blur, noise or nothing. [default: original]"
        ),
    ] = None,
    only_masked: Annotated[
        int | None,
        typer.Option(
            metavar="PADDING", help="Draw the white part alone, and PADDING pixels around it."
        ),
    ] = None,
    overlay: Annotated[
        bool | None,
        typer.Option(
            "--overlay/--no-overlay",
            help="Keep black pixels as they are in --image. [default: overlay]",
        ),
    ] = None,
    depth: Annotated[
        Path | None, typer.Option(help="Depth to image: a map of --image, brighter where nearer.")
    ] = None,
    image_guidance: Annotated[
        float | None,
        typer.Option(help="InstructPix2Pix: how far to stay with --image, such as 1.5."),
    ] = None,
    refiner: Annotated[
        Path | None, typer.Option(help="A bundle or checkpoint that draws the last steps.")
    ] = None,
    refiner_at: Annotated[
        float | None,
        typer.Option(help="Share of the noise that is gone by then, 0 to 1. [default: 0.8]"),
    ] = None,
    hires: Annotated[
        float | None,
        typer.Option(help="Hires fix: draw, make larger by so much, and draw over. Such as 2."),
    ] = None,
    hires_strength: Annotated[
        float | None, typer.Option(help="Share of the steps taken then. [default: 0.7]")
    ] = None,
    hires_steps: Annotated[
        int | None, typer.Option(help="Sampler steps then. [default: those of --steps]")
    ] = None,
    hires_upscaler: Annotated[
        str | None,
        typer.Option(
            help="latent, latent_bicubic, latent_nearest, lanczos, or an upscaler's .onnx file."
            " [default: latent]"
        ),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONTROLNET=IMAGE[:SCALE[:START:END]]",
            help="Draw under a ControlNet with its picture; may be repeated.",
        ),
    ] = None,
    control_mode: Annotated[
        str | None,
        typer.Option(help="balanced, prompt (it counts more) or control. [default: balanced]"),
    ] = None,
    canny_edges: Annotated[
        str | None,
        typer.Option(
            "--canny", metavar="LOW,HIGH", help="Use the pictures' edges, such as 100,200."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Sampler steps.")] = 20,
    guidance_scale: Annotated[float, typer.Option(help="1 or less: no guidance.")] = 7.5,
    guidance_rescale: Annotated[float, typer.Option(help="Less contrast, 0 to 1.")] = 0.0,
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
        typer.Option("--brownian/--no-brownian", help="SDE samplers: one Brownian path."),
    ] = False,
    generator: Annotated[
        str,
        typer.Option(help="Whose numbers a seed gives: torch, numpy or torch-cuda (unverified)."),
    ] = "torch",
    seed: Annotated[
        int | None, typer.Option(help="-1: a random one, which is printed. [default: -1]")
    ] = None,
    subseed: Annotated[
        int | None, typer.Option(help="Seed of a variation. [default: a random one]")
    ] = None,
    subseed_strength: Annotated[
        float, typer.Option(help="How far to go to the subseed's noise, 0 to 1.")
    ] = 0.0,
    to_prompt: Annotated[
        str | None, typer.Option(help="Go from the prompt to this one, over --num-images pictures.")
    ] = None,
    to_seed: Annotated[
        int | None, typer.Option(help="Go from the seed's noise to this seed's, likewise.")
    ] = None,
    tile: Annotated[
        str,
        typer.Option(help="Decode large pictures in tiles: auto (where memory needs it), on, off."),
    ] = "auto",
    size: Annotated[
        str | None,
        typer.Option(help="WIDTHxHEIGHT in pixels. [default: the image's or the checkpoint's]"),
    ] = None,
    num_images: Annotated[
        int | None,
        typer.Option(help="Image i uses seed + i. [default: 1; --to-prompt, --to-seed: 8]"),
    ] = None,
    clip_skip: Annotated[int, typer.Option(help="Last text layers to leave out.")] = 0,
    original_size: Annotated[str | None, typer.Option(help="SDXL: WIDTHxHEIGHT.")] = None,
    crop: Annotated[str, typer.Option(help="SDXL: TOP,LEFT of the crop.")] = "0,0",
    target_size: Annotated[str | None, typer.Option(help="SDXL: WIDTHxHEIGHT.")] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(help="FILE, FILE=SCALE or FILE=SCALE,up.1:SCALE: a LoRA; may be repeated."),
    ] = None,
    lora_dir: Annotated[
        Path | None, typer.Option(help="LoRAs that a prompt names as <lora:NAME:SCALE>.")
    ] = None,
    vae: Annotated[
        Path | None, typer.Option(help="A VAE's .safetensors in place of the model's own.")
    ] = None,
    text_encoder: TextEncoderOption = None,
    configs: ConfigsOption = None,
    prediction_type: PredictionTypeOption = None,
    ema: EmaOption = False,
    dtype: Annotated[
        str | None,
        typer.Option(help="A checkpoint's weights as fp32, fp16 or bf16. [default: as stored]"),
    ] = None,
    variant: VariantOption = None,
    embedding: Annotated[
        list[str] | None,
        typer.Option(help="FILE or FILE=TOKEN: a textual inversion; may be repeated."),
    ] = None,
    embedding_dir: Annotated[
        Path | None,
        typer.Option(help="Textual inversions, read where a prompt has a file's name."),
    ] = None,
    latents: Annotated[Path | None, typer.Option(help="Starting noise, a .npy.")] = None,
    save_latents: Annotated[Path | None, typer.Option(help="Write the starting noise.")] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Draw this picture's request again, with the options given."),
    ] = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "auto",
    component: ComponentOption = None,
    option: EngineOptionsOption = None,
    verify: VerifyOption = "golden",
    max_pixels: MaxPixelsOption = None,
    low_memory: Annotated[
        bool,
        typer.Option(
            "--low-memory",
            help="Keep one component in memory at a time; each picture then loads them again.",
        ),
    ] = False,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            help="Show what is being drawn: on kitty, iTerm2, sixel terminals, else in"
            " OUTPUT.preview.png, removed at the end.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Draw pictures from a bundle or a checkpoint; prints their paths last.

    A checkpoint's bundle is made once, in the cache folder.
    """
    from latentrt.cli.again import again
    from latentrt.cli.bundles import checkpoint_options
    from latentrt.cli.controls import given_controls
    from latentrt.cli.generate import load_latents, make
    from latentrt.cli.tasks import TaskOptions
    from latentrt.cli.values import (
        FRAMES,
        assignments,
        corner,
        engine_options,
        interpolation_of,
        interval,
        numbers,
        refiner_of,
        size_of,
        tiling_of,
        verify_of,
        weighted,
    )
    from latentrt.cli.weights import embeddings_of, loras_of
    from latentrt.runtime import Guidance, Request, Sampling

    if prompt is None and source is None:
        if not bundle.exists():
            raise InputError("bundle", "a bundle or a checkpoint, then the prompt", bundle)
        raise InputError("prompt", "text, or --from a picture", "neither")
    if prompt is not None and not bundle.exists() and Path(prompt).is_dir():
        raise InputError("bundle", "the bundle before the prompt", bundle)
    noise = None if latents is None else load_latents(latents)
    composed = [weighted("compose", text) for text in compose or ()]
    texts = [prompt or "", to_prompt or "", *(text for text, _ in composed)]
    loras, prompts = loras_of(lora or (), lora_dir, texts)
    composed = [(text, weight) for text, (_, weight) in zip(prompts[2:], composed, strict=True)]
    between = interpolation_of(None if to_prompt is None else prompts[1], to_seed)
    if num_images is None:
        num_images = 1 if between is None else FRAMES
    inversions = embeddings_of(embedding or (), embedding_dir, [*prompts, negative_prompt or ""])
    task_options = TaskOptions(
        image=image,
        strength=strength,
        counting=counting,
        mask=mask,
        mask_invert=mask_invert,
        mask_blur=mask_blur,
        mask_soft=mask_soft,
        mask_fill=mask_fill,
        only_masked=only_masked,
        overlay=overlay,
        depth=depth,
        image_guidance=image_guidance,
        hires=hires,
        hires_strength=hires_strength,
        hires_steps=hires_steps,
        hires_upscaler=hires_upscaler,
    )
    edges = None if canny_edges is None else interval("canny", canny_edges)
    controls = given_controls(control or (), control_mode, edges)
    request = Request(
        prompts[0],
        negative_prompt=negative_prompt,
        syntax=check_syntax(syntax),
        task=task_options.task(),
        size=size_of("size", size),
        num_images=num_images,
        seed=None if seed == -1 else seed,
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
        latents=noise if source is None else None,
        composed=composed,
        generator=generator,
        original_size=size_of("original-size", original_size),
        crop=corner("crop", crop),
        target_size=size_of("target-size", target_size),
        weights=[*inversions, *loras],
        refiner=refiner_of(refiner, refiner_at),
        subseed=subseed,
        subseed_strength=subseed_strength,
        interpolation=between,
        tiling=tiling_of(tile),
        controls=[each.control for each in controls],
    )
    if source is not None:
        request = again(
            source,
            request,
            _given(context),
            noise,
            {"embedding": embedding_dir, "lora": lora_dir},
            controls,
        )
    make(
        bundle,
        request,
        output,
        save_latents=save_latents,
        read={
            "latents": latents,
            "image": image,
            "mask": mask,
            "depth": depth,
            "from": source,
            **{f"control {i}": each.path for i, each in enumerate(controls, start=1)},
        },
        engine=engine,
        precision=precision,
        options=engine_options("option", option or ()),
        components=assignments("component", component or ()),
        as_json=as_json,
        max_pixels=max_pixels,
        low_memory=low_memory,
        verify=verify_of(verify),
        vae=vae,
        preview=preview,
        checkpoint=checkpoint_options(
            dtype=dtype,
            variant=variant,
            text_encoder=text_encoder,
            configs=configs,
            prediction_type=prediction_type,
            ema=ema,
        ),
    )


def _given(context: typer.Context) -> frozenset[str]:
    """The options that the command line has, also those equal to their defaults."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return frozenset(n for n, s in sources.items() if s is not None and s.name == "COMMANDLINE")


def samplers(
    bundle: Annotated[
        Path | None, typer.Argument(help="List only the samplers that can draw from it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the samplers and the schedules that each of them takes."""
    from latentrt.cli.samplers import list_samplers, print_samplers

    found = list_samplers(bundle)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print_samplers(found)

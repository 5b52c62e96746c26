"""Checkpoints to test with: the one that ships, and tiny random ones of other configurations."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from filelock import FileLock
from hypothesis import settings
from tests.cli.outcome import Outcome, Run
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from latentrt.bundle.bundle import Bundle
from latentrt.cli.main import main
from latentrt.engines.engine import Blueprint
from latentrt.engines.onnxruntime import cpu as onnxruntime
from latentrt.engines.onnxruntime.options import OnnxRuntimeOptions
from latentrt.engines.openvino import backend as openvino
from latentrt.export.export import export
from latentrt.runtime.rows import Calls, Evaluation, Model

Found = TypeVar("Found")
ROOT = Path(__file__).parents[1]
TRACED = ROOT / "tests" / "graphs" / "traced"
"""Graphs of the tiny checkpoints; `make graphs` traces them."""

# Machines that are shared pause now and then; a slow example is no failure.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends the tests; a command that ran in this process has left it ignored."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def bf16_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO is said to compute in bf16, for tests of what is chosen and told.

    Where the processor has none it computes in fp32.
    """
    monkeypatch.setattr(openvino, "computes_bf16", lambda: True)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`latentrt` with these arguments."""

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["latentrt", *map(str, arguments)])
        status: object = 0
        capsys.readouterr()  # of a bundle that was made just now
        try:
            main()
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        assert isinstance(status, int)
        return Outcome(status, captured.out, captured.err)

    return call


_SD: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}
_BLOCKS = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
}
VAE: dict[str, Any] = dict(
    block_out_channels=(8, 16, 16, 16),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=1,
    norm_num_groups=8,
    latent_channels=4,
    sample_size=64,
)
# Fields of a VAE's config that no layer reads.
_INERT = ("sample_size", "scaling_factor", "force_upcast", "_use_default_values")
# What OpenCLIP's configs say, whatever the tokenizer's ids are.
_OLD_IDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    # SD 1.x: one number of heads, 1x1 convolutions around attention, epsilon.
    "heads": {
        "unet": {
            **_BLOCKS,
            "block_out_channels": (16, 32),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "attention_head_dim": 4,
        },
        "text": {"hidden_act": "quick_gelu"},
        "scheduler": DDIMScheduler(
            **_SD, set_alpha_to_one=False, steps_offset=1, clip_sample=False
        ),
    },
    # SD 2.x: OpenCLIP, padded with "!" and pooled by the old rule; heads as a list, linear
    # projections, attention at two widths, v-prediction.
    "lists": {
        "unet": {
            **_BLOCKS,
            "block_out_channels": (16, 32, 48),
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            "attention_head_dim": [2, 4, 6],
            "use_linear_projection": True,
            "upcast_attention": True,
        },
        "text": {"hidden_act": "gelu", "num_hidden_layers": 4, **_OLD_IDS},
        "pad_token": "!",
        "scheduler": EulerDiscreteScheduler(
            **_SD, prediction_type="v_prediction", timestep_spacing="trailing", steps_offset=1
        ),
    },
    # SDXL: two text encoders, pooled text and sizes, blocks of several transformers.
    "xl": {
        "pipeline": StableDiffusionXLPipeline,
        "unet": {
            **_BLOCKS,
            "block_out_channels": (16, 32),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": [2, 4],
            "transformer_layers_per_block": [1, 2],
            "use_linear_projection": True,
            "cross_attention_dim": 72,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 24 + 6 * 8,
        },
        "text": {"hidden_act": "quick_gelu", "num_hidden_layers": 4},
        "text_2": {
            "hidden_act": "gelu",
            "num_hidden_layers": 5,
            "hidden_size": 40,
            "projection_dim": 24,
            **_OLD_IDS,
        },
        "pad_token_2": "!",
        "vae": {"scaling_factor": 0.13025, "force_upcast": True},
        "scheduler": EulerDiscreteScheduler(**_SD, timestep_spacing="leading", steps_offset=1),
    },
    # LCM: "heads", distilled so that it takes the guidance scale itself.
    "lcm": {
        "pipeline": LatentConsistencyModelPipeline,
        "unet": {
            **_BLOCKS,
            "block_out_channels": (16, 32),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "attention_head_dim": 4,
            "time_cond_proj_dim": 32,
        },
        "text": {"hidden_act": "quick_gelu"},
        "scheduler": LCMScheduler(**_SD),
    },
}

OTHER_CONFIGURATIONS: dict[str, dict[str, Any]] = {
    # SSD-1B: blocks whose attentions have several depths, and none in the middle.
    "ssd": {
        "pipeline": StableDiffusionXLPipeline,
        "unet": {
            **_BLOCKS,
            "layers_per_block": 2,
            "block_out_channels": (16, 32),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "mid_block_type": "UNetMidBlock2D",
            "attention_head_dim": [2, 4],
            "transformer_layers_per_block": [1, [1, 2]],
            "reverse_transformer_layers_per_block": [[2, 1, 1], 1],
            "use_linear_projection": True,
            "cross_attention_dim": 72,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 24 + 6 * 8,
        },
        "text": {"hidden_act": "quick_gelu", "num_hidden_layers": 4},
        "text_2": {
            "hidden_act": "gelu",
            "num_hidden_layers": 5,
            "hidden_size": 40,
            "projection_dim": 24,
            **_OLD_IDS,
        },
        "pad_token_2": "!",
        "vae": {"scaling_factor": 0.13025, "force_upcast": True},
        "scheduler": EulerDiscreteScheduler(**_SD, timestep_spacing="leading", steps_offset=1),
    },
    "refiner": {
        # SDXL's refiner: the second text encoder alone, a score in place of a size.
        "pipeline": StableDiffusionXLImg2ImgPipeline,
        "unet": {
            **CONFIGURATIONS["xl"]["unet"],
            "cross_attention_dim": 40,
            "projection_class_embeddings_input_dim": 40 + 5 * 8,
        },
        "text_2": {**CONFIGURATIONS["xl"]["text_2"], "projection_dim": 40},
        "pad_token_2": "!",
        "vae": CONFIGURATIONS["xl"]["vae"],
        "scheduler": CONFIGURATIONS["xl"]["scheduler"],
    },
    # U-Nets that take more than a latent: a mask and a masked picture, depth, a picture.
    **{
        f"{name}{channels}": {
            **CONFIGURATIONS[name],
            "unet": {**CONFIGURATIONS[name]["unet"], "in_channels": channels},
        }
        for name, channels in (
            ("heads", 9),
            ("lists", 9),
            ("xl", 9),
            ("lists", 5),
            ("heads", 8),
            ("xl", 8),
        )
    },
}
"""Checkpoints that single tests draw from."""


def make_checkpoint(folder: Path, configuration: str, seed: int = 0) -> Path:
    """Write a tiny random diffusers folder whose VAE has factor 8."""
    torch.manual_seed(seed)
    chosen = {**CONFIGURATIONS, **OTHER_CONFIGURATIONS}[configuration]
    parts: dict[str, Any] = {
        "text_encoder": CLIPTextModel(_text_config(chosen.get("text", {}))),
        "tokenizer": _tokenizer(chosen.get("pad_token", "<|endoftext|>")),
        "vae": AutoencoderKL(**VAE, **chosen.get("vae", {})),
        "unet": UNet2DConditionModel(**chosen["unet"]),
    }
    pipeline: Any = chosen.get("pipeline", StableDiffusionPipeline)
    if "text_2" in chosen:
        if "text" not in chosen:
            parts |= {
                "text_encoder": None,
                "tokenizer": None,
                "requires_aesthetics_score": True,
                "force_zeros_for_empty_prompt": False,
            }
        parts["text_encoder_2"] = CLIPTextModelWithProjection(_text_config(chosen["text_2"]))
        parts["tokenizer_2"] = _tokenizer(chosen["pad_token_2"])
    else:
        parts |= dict.fromkeys(("safety_checker", "feature_extractor"))
        parts["requires_safety_checker"] = False
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            _enliven(part)
    pipeline(**parts, scheduler=chosen["scheduler"]).save_pretrained(folder)
    return folder


def _tokenizer(pad_token: str) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(
        ROOT / "models" / "shapes" / "tokenizer", pad_token=pad_token
    )


def _text_config(changes: dict[str, Any]) -> CLIPTextConfig:
    size = len(_tokenizer("<|endoftext|>"))
    shape: dict[str, Any] = dict(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    return CLIPTextConfig(**{**shape, **changes})


def _enliven(module: torch.nn.Module) -> None:
    # Fresh norms are all ones and fresh biases all zeros; a graph that mixed them up would pass.
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            torch.nn.init.normal_(parameter, mean, 0.1)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Messages of the logger `latentrt` at INFO and above, as they come."""
    messages: list[str] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, handler = logging.getLogger("latentrt"), Keeping()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield messages
    logger.removeHandler(handler)
    logger.setLevel(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests counted, those in other processes too, whose own prints go nowhere."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.getreports(kind)]
    counted = sorted(str(v) for r in reports for key, v in r.user_properties if key == "counted")
    if counted:
        terminalreporter.section("counted")
    for line in counted:
        terminalreporter.write_line(line)


# Minutes in few tests: begun last, they would keep one process waiting for the other.
LONG = ("test_kill.py", "test_shape_arithmetic.py", "test_sampler_matrix.py", "test_shapes.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files come first."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder of this run of the tests, the same for all of its processes."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def engines_of_this_session(shared: Path) -> Iterator[None]:
    """Tests neither use nor fill the user's own cache, and have the graphs of tiny checkpoints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTRT_CACHE", str(shared / "cache"))
        patch.setenv("LATENTRT_GRAPHS", str(TRACED))
        yield


@pytest.fixture(scope="session")
def checkpoint(shared: Path) -> Callable[[str], Path]:
    """A tiny checkpoint by configuration, made once a session, or "shapes", which ships.

    "heads@1" is one like "heads" with the weights of another seed.
    """

    def get(configuration: str) -> Path:
        if configuration == "shapes":
            return ROOT / "models" / "shapes"
        folder = shared / "checkpoint" / configuration
        name, _, seed = configuration.partition("@")
        return _once(folder, lambda: make_checkpoint(folder, name, int(seed or 0)))

    return get


@pytest.fixture(scope="session")
def bundle(shared: Path, checkpoint: Callable[[str], Path]) -> Callable[[str], Path]:
    """The bundle of a tiny checkpoint or of "shapes", exported once a session.

    A dtype may follow, as in "shapes-fp16"; else weights are stored in fp32.
    """

    def get(configuration: str) -> Path:
        folder = shared / "bundle" / configuration
        name, _, dtype = configuration.partition("-")

        return _once(folder, lambda: export(checkpoint(name), folder, dtype=dtype or "fp32"))

    return get


def _once(folder: Path, make: Callable[[], object]) -> Path:
    """The folder, made by the first process that asks for it while the others wait."""
    folder.parent.mkdir(exist_ok=True)
    done = folder.with_name(f"{folder.name}.done")
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not done.exists():
            make()
            done.touch()
    return folder


def text_models(opened: Bundle) -> Callable[[str], Model]:
    """A bundle's text encoders on ONNX Runtime, for one prompt of 77 tokens."""
    made: dict[str, Model] = {}

    def get(component: str) -> Model:
        if component not in made:
            record = opened.manifest.components[component]
            blueprint = Blueprint(
                component=component,
                graph=opened.graph(component),
                weights=opened.weights(component),
                inputs=record.inputs,
                outputs=record.outputs,
                sizes={"batch": 1, "sequence": 77},
            )
            engine = onnxruntime.compile(blueprint, OnnxRuntimeOptions(threads=1))
            made[component] = Model(component, record.inputs, lambda _, engine=engine: engine)
        return made[component]

    return get


def answered(evaluation: Evaluation[Found]) -> Found:
    """What comes of an evaluation, each row in a call of its own."""
    return Calls({"unet": (1,), "vae": (1,)}).answer(evaluation)


def read_json(path: Path) -> Any:
    """A JSON file's content."""
    return json.loads(path.read_text())

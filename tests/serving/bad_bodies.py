"""Sixty bad requests, each with the status and the field that its answer must have."""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image


@dataclass(frozen=True)
class Bad:
    """A request, and how it is to be answered. `field` is the parameter named, None for none."""

    name: str
    method: str
    path: str
    status: int
    field: str | None = None
    json: Any = None
    content: bytes | None = None
    files: Mapping[str, tuple[str, bytes]] | None = None
    data: Mapping[str, str] | None = None
    headers: Mapping[str, str] | None = None

    def send(self, client: httpx.Client) -> str:
        """Ask; gives what is wrong with the answer, or nothing."""
        answer = client.request(
            self.method,
            self.path,
            content=json.dumps(self.json).encode() if self.json is not None else self.content,
            files=self.files,
            data=self.data,
            headers={
                **({"content-type": "application/json"} if self.files is None else {}),
                **(self.headers or {}),
            },
        )
        if answer.status_code != self.status:
            return (
                f"{self.name}: {answer.status_code} instead of {self.status}: {answer.text[:200]}"
            )
        error = answer.json().get("error", {})
        if error.get("param") != self.field or not error.get("message"):
            return f"{self.name}: {error}"
        return ""


def picture(size: tuple[int, int] = (64, 64), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, kind)
    return buffer.getvalue()


def coded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def bomb() -> bytes:
    """A PNG of 30000 x 30000 pixels in a few kilobytes: its header is all that may be read."""
    small = bytearray(picture())
    small[16:24] = (30000).to_bytes(4, "big") * 2
    small[29:33] = zlib.crc32(small[12:29]).to_bytes(4, "big")
    return bytes(small)


_JOBS = "/v1/jobs"
_IMAGES = "/v1/images/generations"
_EDITS = "/v1/images/edits"
_PNG = coded(picture())
_SMALL = coded(picture((32, 64)))
_STRENGTH = "task.image_to_image.strength"
_NAN = b'{"prompt": "", "guidance": {"scale": NaN}}'


def _job(name: str, status: int, field: str | None, **fields: Any) -> Bad:
    return Bad(name, "POST", _JOBS, status, field, json={"prompt": "a fox", **fields})


def _image(name: str, status: int, field: str | None, **fields: Any) -> Bad:
    return Bad(name, "POST", _IMAGES, status, field, json={"prompt": "a fox", **fields})


def _edit(name: str, field: str | None, files: Mapping[str, bytes], **data: str) -> Bad:
    named = {key: (f"{key}.png", content) for key, content in files.items()}
    return Bad(name, "POST", _EDITS, 400, field, files=named, data={"prompt": "a fox", **data})


def _task(name: str, status: int, field: str | None, kind: str, **fields: Any) -> Bad:
    return _job(name, status, field, task={"name": kind, **fields})


BODIES: tuple[Bad, ...] = (
    Bad("no body", "POST", _JOBS, 422, "body"),
    Bad("not JSON", "POST", _JOBS, 422, "1", content=b"{nope"),
    Bad("a list", "POST", _JOBS, 422, "body", json=[1]),
    Bad("a number", "POST", _JOBS, 422, "body", json=7),
    Bad("deep JSON", "POST", _JOBS, 400, None, content=b"[" * 1_000_000),
    Bad("no prompt", "POST", _JOBS, 422, "prompt", json={"seed": 1}),
    Bad("not UTF-8", "POST", _JOBS, 400, None, content=b'{"prompt": "\xff\xfe"}'),
    _job("prompt is a number", 422, "prompt", prompt=7),
    _job("prompt is null", 422, "prompt", prompt=None),
    _job("half a character", 400, "prompt", prompt="a \ud800 fox"),
    _job("half a character in a key", 422, "body", **{"\ud800": 1}),
    _job("an unknown field", 422, "stepz", stepz=3),
    _job("steps 0", 422, "sampling.steps", sampling={"steps": 0}),
    _job("steps true", 422, "sampling.steps", sampling={"steps": 2.5}),
    _job("too many steps", 400, "steps", sampling={"steps": 41}),
    _job("too many timesteps", 400, "steps", sampling={"timesteps": [*range(50, 0, -1)]}),
    _job("an unknown sampler", 400, "sampler", sampling={"sampler": "warp"}),
    _job("rho 0", 422, "sampling.rho", sampling={"rho": 0}),
    _job("eta 2", 422, "sampling.eta", sampling={"eta": 2}),
    Bad("NaN", "POST", _JOBS, 422, "guidance.scale", content=_NAN),
    _job("guidance is text", 422, "guidance.scale", guidance={"scale": "much"}),
    _job("guidance is too high", 422, "guidance.scale", guidance={"scale": 1e9}),
    _job("images 0", 422, "num_images", num_images=0),
    _job("too many images", 400, "num_images", num_images=5),
    _job("a negative seed", 422, "seed", seed=-2),
    _job("too large a seed", 422, "seed", seed=1 << 64),
    _job("a size of letters", 400, "size", size="big"),
    _job("a size of 0", 400, "size", size="0x64"),
    _job("a huge size", 400, "size", size="99999x99999"),
    _job("a size of lists", 422, "size", size=[64, 64]),
    _job("clip skip -1", 422, "clip_skip", clip_skip=-1),
    _job("an unknown model", 404, "model", model="../../etc/passwd"),
    _job("an unknown LoRA", 400, "lora", loras=[{"name": "../x"}]),
    _job("an unknown ControlNet", 400, "control", controls=[{"name": "x", "image": _PNG}]),
    _job("a format that is none", 422, "format", format="gif"),
    _job("quality 0", 422, "quality", quality=0),
    _job("a deadline of 0", 422, "deadline", deadline=0),
    _job("an id with a slash", 422, "id", id="../a"),
    _job("too long an id", 422, "id", id="a" * 65),
    _task("an unknown task", 422, "task", "video"),
    _task("no picture", 422, "task.image_to_image.image", "image_to_image"),
    _task("not base64", 400, "image", "image_to_image", image="%%%"),
    _task("an empty picture", 400, "image", "image_to_image", image=""),
    _task("text for a picture", 400, "image", "image_to_image", image=coded(b"hello there")),
    _task("half a picture", 400, "image", "image_to_image", image=_PNG[: len(_PNG) // 8 * 4]),
    _task("an image bomb", 400, "image", "image_to_image", image=coded(bomb())),
    _task("a data URL of text", 400, "image", "image_to_image", image="data:text/plain,hello"),
    _task("strength 1.5", 422, _STRENGTH, "image_to_image", image=_PNG, strength=1.5),
    _task("strength 0", 422, _STRENGTH, "image_to_image", image=_PNG, strength=0),
    _task("a mask of another size", 400, "mask", "inpainting", image=_PNG, mask=_SMALL),
    _task("a mask bomb", 400, "mask", "inpainting", image=_PNG, mask=coded(bomb())),
    _task("hires 100", 422, "task.hires_fix.scale", "hires_fix", scale=100),
    _image("n 0", 400, "n", n=0),
    _image("n 11", 400, "n", n=11),
    _image("partial images 9", 400, "partial_images", stream=True, partial_images=9),
    _image("a format that OpenAI has not", 400, "output_format", output_format="tiff"),
    _edit("an edit without a picture", "image", {"mask": picture()}),
    _edit("an opaque mask", "mask", {"image": picture(), "mask": picture()}),
    _edit("a field that edits have not", "foo", {"image": picture()}, foo="1"),
    Bad("an unknown job", "GET", f"{_JOBS}/none", 404, "id"),
    Bad("an unknown path", "GET", "/v1/nothing", 404),
    Bad("a method that is none", "PUT", _JOBS, 405),
)  # fmt: skip

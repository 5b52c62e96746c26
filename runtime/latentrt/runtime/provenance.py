"""What a picture was drawn with: its model, and what its request left to the model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from latentrt.runtime.checks import json_object, text
from latentrt.runtime.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Provenance:
    """What drew a picture.

    `model` is the checkpoint's name and `model_hash` its bundle's `Manifest.model_hash`; `sampler`
    and `schedule` are those that were used, whether the request names them or leaves them to the
    model. `vae` and `vae_sha256` are the name and hash of the file that the VAE was taken from,
    empty for the checkpoint's own. `refiner` and `refiner_hash` are those of a second model. Raises
    `InputError` for a value that is no text.
    """

    model: str = ""
    model_hash: str = ""
    sampler: str = ""
    schedule: str = ""
    vae: str = ""
    vae_sha256: str = ""
    refiner: str = ""
    refiner_hash: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            text(f"provenance {field.name}", getattr(self, field.name))

    def notes(self, now: Provenance, sampling: Sampling) -> tuple[str, ...]:
        """What a caller should know who draws a picture's request again, but with `now`.

        `sampling` is the request's: a sampler or schedule that it names cannot differ.
        """
        found: list[str] = []
        if self.model_hash != now.model_hash:
            vae = f" with VAE {self.vae} ({self.vae_sha256[:10]})" if self.vae else ""
            found.append(
                f"the picture was drawn by model {self.model} ({self.model_hash[:10]}){vae}; "
                f"{now.model} ({now.model_hash[:10]}) draws another"
            )
        if self.refiner_hash != now.refiner_hash:
            before, after = (
                f"{each.refiner} ({each.refiner_hash[:10]})" if each.refiner else "none"
                for each in (self, now)
            )
            found.append(f"the picture was drawn with refiner {before}; this is {after}")
        if self.sampler != now.sampler:
            if sampling.sampler is None:
                found.append(
                    f"the picture was drawn with sampler {self.sampler}, the model's own; "
                    f"this model's own is {now.sampler}"
                )
        elif sampling.schedule is None and self.schedule != now.schedule:
            found.append(
                f"the picture was drawn with schedule {self.schedule or 'none'}, the model's own; "
                f"this model's own is {now.schedule or 'none'}"
            )
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(value: object) -> Provenance:
        """From `to_json`; a key that is absent is empty. Raises `InputError`."""
        return Provenance(**json_object("provenance", value, [f.name for f in fields(Provenance)]))

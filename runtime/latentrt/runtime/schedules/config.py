"""A diffusers `scheduler_config.json`, read as one class would read it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules.keys import CLASS_DEFAULTS, KNOWN_KEYS, SAMPLER_CLASSES, SOURCES

__all__ = [
    "SchedulerConfig",
    "as_stable_diffusion",
    "find_sampler",
    "read_config",
    "sampler_of",
    "unused_keys",
]

_Choice = TypeVar("_Choice", bound=str)


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """The keys that one scheduler class reads, its defaults filled in.

    Every reader raises InputError, naming the key, where the value is not what it has to be.
    """

    class_name: str
    values: Mapping[str, object]

    def flag(self, key: str) -> bool:
        """A boolean; null is false, as it is in diffusers."""
        value = self.values[key]
        if value is None:
            return False
        if not isinstance(value, bool):
            raise _bad(key, "true or false", value)
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        """An integer from `low` to `high`."""
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _bad(key, f"an integer from {low} to {high}", value)
        return value

    def number(self, key: str, low: float, high: float) -> float:
        """A number from `low` to `high`; infinite only where those are."""
        value = _number(self.values[key])
        if value is None or not low <= value <= high:
            raise _bad(key, f"a number from {low:g} to {high:g}", self.values[key])
        return value

    def optional(self, key: str, low: float, high: float) -> float | None:
        """A number from `low` to `high`, or None."""
        return None if self.values[key] is None else self.number(key, low, high)

    def numbers(self, key: str) -> list[float] | None:
        """A list of numbers, or None."""
        values = self.values[key]
        if values is None:
            return None
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise _bad(key, "a list of numbers, or null", values)
        numbers = [_number(value) for value in cast("Sequence[object]", values)]
        if None in numbers:
            raise _bad(key, "a list of numbers, or null", "another list")
        return [number for number in numbers if number is not None]

    def choice(self, key: str, choices: tuple[_Choice, ...]) -> _Choice:
        """One of several words."""
        value = self.values[key]
        for choice in choices:
            if value == choice:
                return choice
        raise _bad(key, " or ".join(choices), value)

    def refuse(self, *keys: str) -> None:
        """Raise InputError if one of these is on: what it does is not built."""
        for key in keys:
            if self.flag(key):
                raise _bad(key, f"false: not built for {self.class_name}", True)

    def with_values(self, **values: object) -> SchedulerConfig:
        """The same with other values for keys that the class has."""
        return replace(self, values={**self.values, **values})


def _number(value: object) -> float | None:
    """A Python float, or None for what is not a number; JSON's Infinity is one, NaN is not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return None if math.isnan(number) else number


def _bad(key: str, expected: str, got: object) -> InputError:
    return InputError(f"scheduler config '{key}'", expected, repr(got))


def find_sampler(name: str) -> str:
    """The short name of the sampler that a short name or a diffusers class name stands for.

    Raises InputError, listing those there are, for any other name.
    """
    for short, class_name in SAMPLER_CLASSES.items():
        if name in (short, class_name):
            return short
    known = ", ".join(f"{short} ({SAMPLER_CLASSES[short]})" for short in SAMPLER_CLASSES)
    raise InputError("sampler", f"one of {known}", repr(name))


def sampler_of(config: Mapping[str, object], sampler: str | None) -> str:
    """The short name of the sampler asked for or, when None, of the one the config names."""
    source = _source(config)
    if sampler is not None:
        return find_sampler(sampler)
    if source is None:
        raise _bad("_class_name", "a scheduler class, as no sampler was asked for", None)
    if source not in SAMPLER_CLASSES.values():
        built = ", ".join(SAMPLER_CLASSES)
        raise InputError("sampler", f"one of {built}", f"none, and {source}, which is not built")
    return find_sampler(source)


def read_config(config: Mapping[str, object], sampler: str) -> SchedulerConfig:
    """The config as the class of `sampler` reads it, whichever class it was written for.

    `sampler` is a short name. Keys that the class has carry over; keys that the file does not have
    take this class's defaults, not those of the class that it names. Raises InputError for a key
    that no diffusers scheduler knows, for a class that is not of this kind of diffusion, and for
    what no sampler here honours.

    Source: diffusers' `ConfigMixin.from_config`.
    """
    _source(config)
    for key, value in config.items():
        if key not in KNOWN_KEYS and not key.startswith("_"):
            raise _bad(key, "a key that a diffusers scheduler knows", value)
    for key in ("use_flow_sigmas", "use_dynamic_shifting", "invert_sigmas"):
        if config.get(key):
            raise _bad(key, "false: flow matching is not built", config[key])
    if config.get("variance_type") in ("learned", "learned_range"):
        raise _bad("variance_type", "a fixed one: learned is not built", config["variance_type"])
    class_name = SAMPLER_CLASSES[sampler]
    defaults = CLASS_DEFAULTS[class_name]
    given = _given(config)
    return SchedulerConfig(
        class_name, {**defaults, **{k: given[k] for k in defaults if k in given}}
    )


def unused_keys(config: Mapping[str, object], sampler: str | None = None) -> tuple[str, ...]:
    """The keys of a config that the sampler's class does not read, sorted; they change nothing.

    `sampler` is a short name or a diffusers class name; None takes the class that the config names,
    and then all keys are unused if there is no such sampler yet.
    """
    class_name = _source(config) if sampler is None else SAMPLER_CLASSES[find_sampler(sampler)]
    used = {"_class_name", *CLASS_DEFAULTS.get(class_name or "", ())}
    return tuple(sorted(set(config) - used))


def as_stable_diffusion(config: Mapping[str, object]) -> dict[str, object]:
    """A copy with what diffusers' Stable Diffusion 1 and 2 pipelines force on every scheduler.

    `steps_offset` becomes 1 and `clip_sample` false, whatever the file says and whichever sampler
    is then chosen. The SDXL pipeline forces neither: its configs are used as they are.

    Source: diffusers' `StableDiffusionPipeline.__init__`.
    """
    forced: dict[str, object] = {"steps_offset": 1, "clip_sample": False}
    if "_use_default_values" in config:
        # A key that is listed there is as good as absent, and these no longer are.
        listed = [key for key in _defaulted(config) if key not in forced]
        forced["_use_default_values"] = listed
    return {**config, **forced}


def _source(config: Mapping[str, object]) -> str | None:
    """The class that a config was written for, if it names one; InputError if it cannot be read."""
    source = config.get("_class_name")
    if source is None or (isinstance(source, str) and source in SOURCES):
        return source
    raise _bad("_class_name", f"one of {', '.join(sorted(SOURCES))}", source)


def _defaulted(config: Mapping[str, object]) -> list[str]:
    """The keys that a config itself says were filled in with its class's defaults."""
    listed = config.get("_use_default_values")
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        return []
    return [key for key in cast("Sequence[object]", listed) if isinstance(key, str)]


def _given(config: Mapping[str, object]) -> dict[str, object]:
    """The keys of a config that were set, rather than filled in with a default of its class."""
    defaulted = _defaulted(config)
    return {key: value for key, value in config.items() if key not in defaulted}

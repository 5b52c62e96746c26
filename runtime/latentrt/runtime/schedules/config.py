"""A diffusers `scheduler_config.json`, read as one class would read it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules.catalogue import SamplerName, find_sampler
from latentrt.runtime.schedules.classes import CLASS_DEFAULTS, EDM_CLASSES, class_here
from latentrt.runtime.schedules.keys import KNOWN_KEYS

__all__ = [
    "SchedulerConfig",
    "as_stable_diffusion",
    "ignored_keys",
    "read_config",
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
        """A boolean, or 0 or 1; null and a key that is not there are false, as in diffusers."""
        value = self.values.get(key)
        if value is None:
            return False
        if value not in (True, False):
            raise _bad(key, "true or false", value)
        return bool(value)

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

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of integers of at least 0; null is empty."""
        values = self.numbers(key) or []
        if not all(value.is_integer() and value >= 0.0 for value in values):
            raise _bad(key, "a list of integers of at least 0", self.values[key])
        return tuple(int(value) for value in values)

    def with_values(self, **values: object) -> SchedulerConfig:
        """The same with other values for keys that the class has."""
        return replace(self, values={**self.values, **values})


def _number(value: object) -> float | None:
    """A Python float, or None for other values; JSON's Infinity is one, NaN is not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return None if math.isnan(number) else number


def _bad(key: str, expected: str, got: object) -> InputError:
    return InputError(f"scheduler config '{key}'", expected, repr(got))


def read_config(config: Mapping[str, object], sampler: str | None = None) -> SchedulerConfig:
    """The config as the class of a sampler reads it, whichever class it was written for.

    `sampler` is a short name or a diffusers class name; None takes the class that the config names.
    Keys that the class has carry over, except those that a short name decides. Keys that the file
    does not have take this class's defaults, not those of the class that it names. Keys
    that the class does not have change nothing. Raises InputError for a class that is not of this
    kind of diffusion, and for what no sampler here honours.

    Source: diffusers' `ConfigMixin.from_config`.
    """
    name = _sampler(config, sampler)
    for key in ("use_flow_sigmas", "use_dynamic_shifting", "invert_sigmas"):
        if config.get(key):
            raise _bad(key, "false: flow matching is not built", config[key])
    defaults = CLASS_DEFAULTS[name.class_name]
    if "variance_type" in defaults and config.get("variance_type") in ("learned", "learned_range"):
        raise _bad("variance_type", "a fixed one: learned is not built", config["variance_type"])
    given = {**_given(config), **name.decides}
    values = {**defaults, **{key: given[key] for key in defaults if key in given}}
    return SchedulerConfig(name.class_name, values)


def _sampler(config: Mapping[str, object], sampler: str | None) -> SamplerName:
    """The sampler asked for, or the config's own, for the kind of model that the config is of."""
    source = _source(config)
    if sampler is None and source is None:
        raise _bad("_class_name", "a scheduler class, as no sampler was asked for", None)
    name = find_sampler(str(source) if sampler is None else sampler)
    if source is not None and (source in EDM_CLASSES) != (name.class_name in EDM_CLASSES):
        expected = f"{'an' if source in EDM_CLASSES else 'no'} EDM sampler for a {source}"
        raise InputError("sampler", expected, repr(sampler))
    return name


def unused_keys(config: Mapping[str, object], sampler: str | None = None) -> tuple[str, ...]:
    """The keys of a config that the sampler's class does not read, sorted; they change nothing.

    `sampler` is a short name or a diffusers class name; None takes the class that the config names.
    """
    name = _sampler(config, sampler)
    used = {"_class_name", *CLASS_DEFAULTS[name.class_name]} - set(name.decides)
    return tuple(sorted(set(config) - used))


def ignored_keys(config: Mapping[str, object]) -> tuple[str, ...]:
    """The keys that no diffusers scheduler reads, sorted: left by an older or a newer version."""
    return tuple(sorted(k for k in config if k not in KNOWN_KEYS and not k.startswith("_")))


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
    known = class_here(source)
    if source is None or known is not None:
        return known
    raise _bad("_class_name", f"one of {', '.join(sorted(CLASS_DEFAULTS))}", source)


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

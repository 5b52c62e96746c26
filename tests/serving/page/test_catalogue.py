"""What can be asked for, by name."""

from __future__ import annotations

import httpx


def test_the_catalogue_has_names_and_limits(url: str) -> None:
    found = httpx.get(f"{url}v1/catalogue").json()
    assert [each["name"] for each in found["models"]] == ["heads"]
    assert [found[name] for name in ("loras", "embeddings")] == [["broken"], []]
    assert found["controls"] == ["edges", "lines"]
    limits = {"steps": 400, "images": 4, "pixels": None, "body": 64 << 20}
    assert found["limits"] == limits
    (sampler,) = (each for each in found["samplers"] if each["name"] == "dpmpp_2m")
    assert sampler["title"] == "DPM++ 2M"
    assert "karras" in sampler["schedules"]

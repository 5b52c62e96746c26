"""The Dockerfile and the Kubernetes manifest, as far as they can be checked without either."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from latentrt.cli.app import app
from latentrt.serving.routes import health

ROOT = Path(__file__).parents[2]
PATHS = {getattr(route, "path", "") for route in health.router.routes}
PORT = 7860


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    text = (ROOT / "deploy/Dockerfile").read_text()
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", text)).splitlines()
    return [
        (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line)
    ]


def of(word: str) -> list[str]:
    return [rest for name, rest in instructions() if name == word]


def objects() -> dict[str, dict[str, Any]]:
    found = yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text())
    return {each["kind"]: each for each in found}


def pod() -> dict[str, Any]:
    return objects()["Deployment"]["spec"]["template"]["spec"]


def container() -> dict[str, Any]:
    (found,) = pod()["containers"]
    return found


def parsed(arguments: list[str]) -> dict[str, Any]:
    """The options of a command line; raises what the command line itself raises."""
    command: Any = typer.main.get_command(app)
    assert arguments[0] == "serve"
    return command.commands["serve"].make_context("serve", arguments[1:]).params


def test_the_image_ends_as_a_user_without_rights() -> None:
    words = [word for word, _ in instructions()]
    assert words.count("FROM") == 2
    last = len(words) - words[::-1].index("FROM")
    assert "USER" in words[last:]
    assert of("USER")[-1].isdecimal()
    assert int(of("USER")[-1]) >= 1000


def test_the_image_names_its_base_and_copies_what_there_is() -> None:
    assert all(re.fullmatch(r"[a-z]+:[\w.-]+( AS \w+)?", each) for each in of("FROM"))
    for each in of("COPY"):
        *sources, _ = each.split()
        if not each.startswith("--from"):
            assert all(ROOT.joinpath(each).exists() or "dist/" in each for each in sources)


def test_the_health_check_asks_a_path_that_there_is() -> None:
    (check,) = of("HEALTHCHECK")
    command = json.loads(check[check.index("[") :])
    compile(command[2], "check", "exec")
    (path,) = re.findall(rf"http://127\.0\.0\.1:{PORT}(/[\w/]+)", command[2])
    assert path in PATHS
    assert of("EXPOSE") == [str(PORT)]


def test_the_image_starts_the_service_with_options_that_it_has() -> None:
    (entry,) = of("ENTRYPOINT")
    program, *arguments = json.loads(entry)
    assert program == "latentrt"
    options = parsed([*arguments, "/models/sd15", "--size", "512x512"])
    assert (options["host"], options["port"]) == ("0.0.0.0", PORT)
    assert json.loads(of("VOLUME")[0]) == ["/cache", "/models"]


@pytest.mark.parametrize("probe", ["startup", "readiness", "liveness"])
def test_each_probe_asks_a_path_that_there_is(probe: str) -> None:
    asked = container()[f"{probe}Probe"]["httpGet"]
    names = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert asked["path"] in PATHS
    assert names[asked["port"]] == PORT


def test_a_pod_is_given_longer_than_it_drains() -> None:
    options = parsed(["serve", *container()["args"]])
    assert pod()["terminationGracePeriodSeconds"] > options["drain"] + 30


def test_the_objects_refer_to_each_other() -> None:
    found = objects()
    assert {each["apiVersion"] for each in found.values()} == {"v1", "apps/v1"}
    spec = found["Deployment"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    volumes = {each["name"]: each for each in pod()["volumes"]}
    assert {each["name"] for each in container()["volumeMounts"]} == set(volumes)
    claim = volumes["cache"]["persistentVolumeClaim"]["claimName"]
    assert claim == found["PersistentVolumeClaim"]["metadata"]["name"]


def test_a_container_has_bounds_and_no_rights() -> None:
    assert container()["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in container()["resources"]["limits"]
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert str(pod()["securityContext"]["runAsUser"]) == of("USER")[-1]
    assert container()["securityContext"]["allowPrivilegeEscalation"] is False

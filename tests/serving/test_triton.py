"""The model repository for Triton: its configuration by Triton's schema, its code by a stub."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format, text_format
from tests.serving.live import opened
from tritonclient.grpc import model_config_pb2

from latentrt.bundle.errors import FileError, InputError
from latentrt.cli.app import run
from latentrt.runtime import Request, Sampling, Size
from latentrt.serving.triton import write_repository

REQUEST = {"prompt": "a red circle", "seed": 3, "num_images": 2, "sampling": {"steps": 4}}


def config_of(folder: Path) -> Any:
    """The configuration, as Triton's schema reads it: an unknown field raises."""
    text = (folder / "config.pbtxt").read_text()
    config: Any = model_config_pb2.ModelConfig()
    return text_format.Parse(text, config)


class TritonError(Exception):
    INTERNAL, INVALID_ARG, UNAVAILABLE, CANCELLED = 1, 3, 5, 8

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Sender:
    """A response sender: what was sent, with its flags. `cancelled` may be set."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, int]] = []
        self.done = threading.Event()
        self.cancelled = False
        self.asked = 0

    def is_cancelled(self) -> bool:
        self.asked += 1
        return self.cancelled

    def send(self, response: Any, flags: int = 0) -> None:
        self.sent.append((response, flags))
        self.done.set()


def backend() -> Any:
    """A stub of `triton_python_backend_utils`.

    Source: github.com/triton-inference-server/python_backend, README.md.
    """

    def tensor(name: str, values: Any) -> Any:
        return SimpleNamespace(name=name, as_numpy=lambda: values)

    def response(output_tensors: Any = (), error: Any = None) -> Any:
        found = {each.name: each.as_numpy() for each in output_tensors}
        return SimpleNamespace(tensors=found, error=error)

    return SimpleNamespace(
        Tensor=tensor,
        InferenceResponse=response,
        TritonError=TritonError,
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=1,
        get_input_tensor_by_name=lambda request, name: request.inputs[name],
    )


def asked(text: str, sender: Sender) -> Any:
    values = np.array([text.encode()], dtype=object)
    inputs = {"request": SimpleNamespace(as_numpy=lambda: values)}
    return SimpleNamespace(inputs=inputs, get_response_sender=lambda: sender)


@pytest.fixture(scope="module")
def repository(bundle: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    write_repository(bundle("heads"), folder, name="sd", engine="onnxruntime", max_batch=4)
    return folder / "sd"


@pytest.fixture(scope="module")
def model(repository: Path) -> Iterator[Any]:
    """The model that was written, as Triton starts it."""
    sys.modules["triton_python_backend_utils"] = backend()
    spec = importlib.util.spec_from_file_location("triton_model", repository / "1" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.TritonPythonModel()
    found.initialize(
        {
            "model_config": json_format.MessageToJson(
                config_of(repository), preserving_proto_field_name=True
            )
        }
    )
    yield found
    found.finalize()
    del sys.modules["triton_python_backend_utils"]


def answer(model: Any, text: str, sender: Sender | None = None) -> Any:
    sender = sender or Sender()
    assert model.execute([asked(text, sender)]) is None
    assert sender.done.wait(60)
    ((response, flags),) = sender.sent
    assert flags == 1
    return response


def test_the_configuration_is_one_of_tritons_schema(repository: Path) -> None:
    config = config_of(repository)
    assert (config.name, config.backend, config.max_batch_size) == ("sd", "python", 0)
    assert config.model_transaction_policy.decoupled
    assert [each.name for each in config.input] == ["request"]
    assert [(each.name, list(each.dims)) for each in config.output] == [
        ("images", [-1, -1, -1, 3]),
        ("requests", [-1]),
    ]
    assert config.output[0].data_type == model_config_pb2.TYPE_UINT8


def test_any_path_is_written_as_it_is(tmp_path: Path) -> None:
    odd = tmp_path / 'a "quoted" \\ näme.safetensors'
    odd.touch()
    sizes = [Size(512, 768), Size(64, 64)]
    folder = write_repository(odd, tmp_path / "repository", name="x", sizes=sizes)
    parameters = config_of(folder).parameters
    assert parameters["model"].string_value == str(odd)
    assert parameters["sizes"].string_value == "512x768 64x64"


def test_its_pictures_are_those_drawn_alone(model: Any, bundle: Callable[[str], Path]) -> None:
    tensors = answer(model, json.dumps(REQUEST)).tensors
    with opened(bundle("heads")) as pipeline, pipeline.batcher(max_batch=4) as batcher:
        request = Request("a red circle", seed=3, num_images=2, sampling=Sampling(steps=4))
        alone = [np.asarray(each) for each in batcher.submit(request).result().images]
    # Engines of other batch sizes may add up in another order.
    difference = np.abs(tensors["images"].astype(int) - np.stack(alone).astype(int))
    assert difference.max() <= 1
    seeds = [json.loads(each)["seed"] for each in tensors["requests"]]
    assert seeds[0] == 3
    assert len(seeds) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "request: expected a JSON object"), ('{"prompt": "a", "size": "0x0"}', "size")],
)
def test_what_is_wrong_with_a_request_is_an_invalid_argument(
    model: Any, text: str, message: str
) -> None:
    error = answer(model, text).error
    assert error.code == TritonError.INVALID_ARG
    assert message in str(error)


def test_a_cancelled_request_ends_within_a_step(model: Any) -> None:
    sender = Sender()
    sender.cancelled = True
    text = json.dumps(REQUEST | {"sampling": {"steps": 150}})
    assert answer(model, text, sender).error.code == TritonError.CANCELLED
    assert sender.asked == 1


def test_requests_are_taken_in_while_others_are_drawn(model: Any) -> None:
    senders = [Sender() for _ in range(6)]
    model.execute([asked(json.dumps(REQUEST | {"seed": i}), s) for i, s in enumerate(senders)])
    assert all(sender.done.wait(60) for sender in senders)
    assert all(sender.sent[0][0].error is None for sender in senders)


def test_the_command_writes_the_repository(tmp_path: Path, capsys: Any) -> None:
    bundle = tmp_path / "sd15.safetensors"
    bundle.touch()
    assert run(["triton", str(bundle), str(tmp_path / "models"), "--size", "64x64"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "models" / "sd15")
    assert (tmp_path / "models" / "sd15" / "1" / "model.py").is_file()


def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileError):
        write_repository(tmp_path / "none", tmp_path)
    with pytest.raises(InputError, match="name"):
        write_repository(tmp_path, tmp_path, name="a/b")

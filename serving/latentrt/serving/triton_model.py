"""The model of a Triton model repository: `latentrt triton` writes this file as 1/model.py.

It runs in Triton's Python backend, decoupled: `execute` returns at once, and each answer is sent
when its pictures are drawn. So requests share U-Net calls at any step. Unverified: it was run
against a stub of the backend alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import triton_python_backend_utils  # pyright: ignore[reportMissingImports]

from latentrt.bundle.errors import Busy, Cancelled, Closed, InputError, LatentrtError
from latentrt.runtime import Pipeline, Request, Sampling, Size

pb_utils: Final[Any] = triton_python_backend_utils


class TritonPythonModel:
    """Draws requests: `request` is the JSON of one, `images` are its pictures."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the pipeline of the parameters, and draw one step at each size."""
        parameters: dict[str, dict[str, str]] = json.loads(args["model_config"])["parameters"]
        values = {name: each.get("string_value", "") for name, each in parameters.items()}
        self._pipeline = Pipeline.open(
            values["model"], engine=values["engine"], precision=values["precision"]
        )
        queue = int(values["queue"])
        self._batcher = self._pipeline.batcher(max_batch=int(values["max_batch"]), queue=queue)
        self._threads = ThreadPoolExecutor(queue, thread_name_prefix="latentrt-triton")
        sizes = [Size.parse(each) for each in values["sizes"].split()]
        for size in sizes or [None]:
            warm = Request("a warm-up", size=size, seed=0, sampling=Sampling(steps=1))
            self._batcher.submit(warm).result()

    def execute(self, requests: Sequence[Any]) -> None:
        """Take requests in; each is answered through its own sender."""
        for each in requests:
            self._threads.submit(self._answer, each, each.get_response_sender())

    def finalize(self) -> None:
        """Cancel what is drawn, and close the pipeline."""
        self._batcher.close(cancel=True)
        self._threads.shutdown(wait=True)
        self._pipeline.close()

    def _answer(self, request: Any, sender: Any) -> None:
        try:
            response = self._drawn(request, sender)
        except Exception as error:
            response = pb_utils.InferenceResponse(error=_error(error))
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _drawn(self, request: Any, sender: Any) -> Any:
        run = self._batcher.submit(_request(request))
        try:
            for _ in run:
                if sender.is_cancelled():
                    run.cancel()
                    break  # a step that was drawn meanwhile is not waited for
            result = run.result()
        finally:
            run.cancel()
        images = np.stack([np.asarray(image.convert("RGB")) for image in result.images])
        coded = [json.dumps(result.request_of(i).to_json()) for i in range(len(images))]
        texts = np.array([each.encode() for each in coded], dtype=object)
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor("images", images), pb_utils.Tensor("requests", texts)]
        )


def _request(request: Any) -> Request:
    """The request that the input tensor has as JSON; raises `InputError`."""
    values = pb_utils.get_input_tensor_by_name(request, "request").as_numpy().reshape(-1)
    if len(values) != 1:
        raise InputError("request", "one text", f"{len(values)}")
    try:
        return Request.from_json(json.loads(values[0]))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError("request", "a JSON object", str(error)) from None


def _error(error: Exception) -> Any:
    """The error with Triton's code of what the client may do about it."""
    kinds = pb_utils.TritonError
    code = kinds.INTERNAL
    if isinstance(error, InputError):
        code = kinds.INVALID_ARG
    elif isinstance(error, Busy | Closed):
        code = kinds.UNAVAILABLE
    elif isinstance(error, Cancelled):
        code = kinds.CANCELLED
    text = str(error) if isinstance(error, LatentrtError) else f"unexpected {error!r}"
    return kinds(text, code)

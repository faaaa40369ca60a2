"""Classes written for Triton's Python backend, run by the `python` runtime unchanged."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_engine.domain.errors import InferenceFailed, InvalidManifest, InvalidRequest
from inference_engine.domain.model import Execution, Manifest, Sequences, Signature, TensorSpec
from inference_engine.infra.runtimes.python import PythonRuntime

SIGNATURE = Signature(
    (TensorSpec("IN", "float32", (-1, 2)),),
    (TensorSpec("OUT", "float32", (-1, 2)),),
)
ADD = """
import json
import pathlib
import numpy as np
import triton_python_backend_utils as pb_utils

class Helper:
    pass

class TritonPythonModel:
    def initialize(self, args):
        self.config = json.loads(args["model_config"])
        out = pb_utils.get_output_config_by_name(self.config, "OUT")
        self.dtype = pb_utils.triton_string_to_numpy(out["data_type"])
        self.more = float(self.config["parameters"]["more"]["string_value"])
        assert args["model_version"] == "1" and args["model_instance_kind"] == "CPU"
        assert not pb_utils.using_decoupled_model_transaction_policy(self.config)
        pb_utils.Logger.log_info("ready")

    def execute(self, requests):
        responses = []
        for request in requests:
            given = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            if given[0, 0] == -1:
                raise pb_utils.TritonModelException("minus one")
            if given[0, 0] < -1:
                error = pb_utils.TritonError("below", pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(output_tensors=[], error=error))
                continue
            if given[0, 0] > 1000:
                pb_utils.InferenceRequest(model_name="other").exec()
            tensor = pb_utils.Tensor("OUT", (given + self.more).astype(self.dtype))
            again = pb_utils.Tensor.from_dlpack("OUT", tensor)
            responses.append(pb_utils.InferenceResponse([again]))
        return responses

    def finalize(self):
        pathlib.Path("FILE").write_text("finalized")
"""


class Sink:
    def __init__(self, stop_after: int | None = None) -> None:
        self.responses: list[Any] = []
        self.stop_after = stop_after

    @property
    def cancelled(self) -> bool:
        return self.stop_after is not None and len(self.responses) >= self.stop_after

    def send(self, outputs: Any) -> None:
        if not self.cancelled:
            self.responses.append({name: array.ravel().tolist() for name, array in outputs.items()})


def loaded(folder: Path, source: str, signature: Signature | None = SIGNATURE, **fields: Any) -> PythonRuntime:
    version = folder / "1"
    version.mkdir()
    (version / "model.py").write_text(source.replace("FILE", str(folder / "file")))
    made = Manifest("add", "1", "python", "model.py:TritonPythonModel", signature=signature, **fields)
    runtime = PythonRuntime()
    runtime.load(made, version)
    return runtime


def test_the_usual_class_is_served(tmp_path: Path) -> None:
    runtime = loaded(tmp_path, ADD, options={"parameters": {"more": "1.5"}})
    batch = {"IN": np.array([[1, 2], [3, 4]], np.float32)}
    assert runtime.run(batch)["OUT"].tolist() == [[2.5, 3.5], [4.5, 5.5]]
    with pytest.raises(InferenceFailed, match=r"minus one \(model.py, line"):
        runtime.run({"IN": np.full((1, 2), -1, np.float32)})
    with pytest.raises(InvalidRequest, match="below"):
        runtime.run({"IN": np.full((1, 2), -2, np.float32)})
    with pytest.raises(InferenceFailed, match="asking another model"):
        runtime.run({"IN": np.full((1, 2), 2000, np.float32)})
    runtime.close()
    assert (tmp_path / "file").read_text() == "finalized"


DECOUPLED = """
import pathlib
import threading
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            numbers = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            threading.Thread(target=self.answer, args=(sender, numbers)).start()
        return None

    def answer(self, sender, numbers):
        for number in numbers.ravel():
            if sender.is_cancelled():
                pathlib.Path("FILE").write_text("cancelled")
                break
            if number == 13:
                sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("thirteen")))
                break
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([number], np.float32))]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
NUMBERS = Signature((TensorSpec("IN", "float32", (-1,)),), (TensorSpec("OUT", "float32", (1,)),))


def test_a_decoupled_class_sends_from_its_own_threads(tmp_path: Path) -> None:
    runtime = loaded(tmp_path, DECOUPLED, NUMBERS, options={"decoupled": True})
    sinks = [Sink() for _ in range(4)]
    given = {"IN": np.arange(20, 40, dtype=np.float32)}
    threads = [threading.Thread(target=runtime.run_stream, args=(given, sink)) for sink in sinks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    for sink in sinks:
        assert sink.responses == [{"OUT": [number]} for number in range(20, 40)]
    failing = Sink()
    with pytest.raises(InferenceFailed, match="thirteen"):
        runtime.run_stream({"IN": np.array([1, 13, 2], np.float32)}, failing)
    assert failing.responses == [{"OUT": [1.0]}]
    runtime.run_stream({"IN": np.arange(20, 100_000, dtype=np.float32)}, Sink(stop_after=3))
    for _ in range(100):
        if (tmp_path / "file").exists():
            break
        time.sleep(0.02)
    assert (tmp_path / "file").read_text() == "cancelled"
    runtime.close()


AUTO = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "WORDS", "data_type": "TYPE_STRING", "dims": [1]})
        config.add_output({"name": "COUNT", "data_type": "TYPE_INT32", "dims": [1]})
        config.set_max_batch_size(8)
        config.set_dynamic_batching()
        return config

    def execute(self, requests):
        words = [pb_utils.get_input_tensor_by_name(request, "WORDS").as_numpy() for request in requests]
        counts = [np.array([[len(item[0].split())] for item in array], np.int32) for array in words]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("COUNT", array)]) for array in counts]
"""


def test_a_class_may_complete_its_configuration(tmp_path: Path) -> None:
    version = tmp_path / "1"
    version.mkdir()
    (version / "model.py").write_text(AUTO)
    runtime = PythonRuntime()
    found = runtime.load(Manifest("words", "1", "python", "model.py:TritonPythonModel"), version)
    assert found.signature == Signature(
        (TensorSpec("WORDS", "bytes", (-1, 1)),), (TensorSpec("COUNT", "int32", (-1, 1)),)
    )
    batch = {"WORDS": np.array([[b"a b"], [b"c"]], object)}
    assert runtime.run(batch)["COUNT"].tolist() == [[2], [1]]
    runtime.close()


SEQUENCE = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.totals = {}

    def execute(self, requests):
        responses = []
        for request in requests:
            key = request.correlation_id()
            if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
                self.totals[key] = 0
            assert [tensor.name() for tensor in request.inputs()] == ["IN"]
            self.totals[key] += request.inputs()[0].as_numpy()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", self.totals[key])]))
        return responses
"""


def test_a_class_that_keeps_sequences_is_told_each_requests_own(tmp_path: Path) -> None:
    runtime = loaded(tmp_path, SEQUENCE, execution=Execution(sequences=Sequences()))

    def batch(start: bool) -> dict[str, Any]:
        return {
            "IN": np.array([[1, 1], [2, 2]], np.float32),
            "sequence_id": np.array([b"7", b"eight"], object),
            "sequence_start": np.array([start, start]),
            "sequence_end": np.array([False, False]),
        }

    runtime.run(batch(start=True))
    assert runtime.run(batch(start=False))["OUT"].tolist() == [[2, 2], [4, 4]]
    runtime.close()


def test_wrong_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="options"):
        loaded(tmp_path, ADD, options={"more": "1"})


def test_what_is_no_response_is_told(tmp_path: Path) -> None:
    source = "class TritonPythonModel:\n    def execute(self, requests):\n        return {'OUT': 1}\n"
    with pytest.raises(InferenceFailed, match="list of 1 responses"):
        loaded(tmp_path, source).run({"IN": np.zeros((1, 2), np.float32)})

"""A runtime for MLServer that calls ONNX Runtime in one thread. Runs in MLServer's environment, see `mlserver.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class OnnxModel(MLModel):  # type: ignore[misc]  # MLServer is not installed beside ours
    """The least code that answers with all outputs, each a float32 array."""

    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        file = self.settings.parameters.uri
        self._session: Any = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._names = [node.name for node in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feed = {tensor.name: np.array(tensor.data.root, np.float32).reshape(tensor.shape) for tensor in payload.inputs}
        outputs = [
            ResponseOutput(name=name, datatype="FP32", shape=list(array.shape), data=array.ravel().tolist())
            for name, array in zip(self._names, self._session.run(None, feed), strict=True)
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)

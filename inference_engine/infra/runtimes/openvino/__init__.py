"""Text generation with OpenVINO GenAI's continuous batching: `OpenvinoRuntime`, read `runtime.py` first."""

from inference_engine.infra.runtimes.openvino.runtime import OpenvinoRuntime

__all__ = ["OpenvinoRuntime"]

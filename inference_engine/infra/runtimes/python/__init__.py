"""Runs a model written as a plain Python class. The class knows nothing of us; `docs/python-models.md` is its manual.

The manifest's `artifact` is "FILE.py:ClassName". The class needs no import from this project and offers what it can:

    class Model:
        inputs = [{"name": "x", "dtype": "float32", "shape": [-1, 4]}]    # or `signature` in model.yaml
        outputs = [{"name": "y", "dtype": "float32", "shape": [-1, 1]}]   # optional
        deterministic_stream = False
        concurrency = 1

        def load(self, folder, options): ...          # optional: pathlib.Path of the model, `options` of model.yaml
        def predict(self, inputs): return {"y": ...}  # tensors: dict of numpy arrays in and out
        def predict_stream(self, inputs): yield {"y": ...}      # several responses to one prediction
        def stream(self, messages, sampling):         # text: yields pieces, answers chats and completions
            yield "Hello"
        def embed(self, texts): return [[...], ...]   # one vector for each text
        def rerank(self, query, documents): return [...]        # one score for each document
        def transcribe(self, audio, options): yield "Hello"     # speech: bytes in, pieces out
        def tokenize(self, messages): return [...]    # optional: token ids, for counts
        def close(self): ...                          # optional
"""

from inference_engine.infra.runtimes.python.runtime import PythonRuntime

__all__ = ["PythonRuntime"]

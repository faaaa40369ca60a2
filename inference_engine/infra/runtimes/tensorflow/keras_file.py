"""Opens a Keras 3 file and makes one function of its model. Refuses files that carry code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inference_engine.domain.errors import ModelLoadFailed, RuntimeMissing
from inference_engine.infra.runtimes.tensorflow.saved_model import damaged


def open_keras(path: Path) -> tuple[Any, Any, list[str], list[str]]:
    """The model at `path`, a concrete function of its flat inputs, and the names of inputs and outputs.

    Raises:
        ModelLoadFailed: it is damaged, carries code (a Lambda layer), or does not tell its inputs.
    """
    import keras
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        raise RuntimeMissing(
            f"Keras is set to the backend {keras.backend.backend()!r}: set KERAS_BACKEND=tensorflow for the server"
        )
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file fails in many ways; safe mode raises ValueError
        raise damaged(path, error) from None
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise ModelLoadFailed(
            f"{path} does not tell its inputs: build it from keras.Input, or export it with model.export(FOLDER)",
            param="artifact",
        )
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input

    def compute(*flat: Any) -> Any:
        return keras.tree.flatten(model(keras.tree.pack_sequence_as(structure, list(flat)), training=False))

    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in keras.tree.flatten(structure)]
    try:
        function = tf.function(compute, input_signature=specs).get_concrete_function()
    except Exception as error:  # the model's own layers run here
        raise damaged(path, error) from None
    inputs = [tensor.name for tensor in keras.tree.flatten(structure)]
    outputs = [model.layers[-1].name] if isinstance(model, keras.Sequential) else list(model.output_names)
    return model, function, inputs, outputs

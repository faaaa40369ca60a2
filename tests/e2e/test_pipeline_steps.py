"""Models that take sound, text and columns, on a real server: Triton's client, the Python API and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from tritonclient.utils import InferenceServerException

from inference_engine import Engine
from inference_engine.domain.errors import InvalidTensor
from inference_engine.tabular import export_fitted
from tests.conftest import LiveServer, free_port
from tests.fixtures.tiny_onnx import mlp_onnx
from tests.fixtures.tiny_sound import sound_file, tones
from tests.fixtures.tiny_steps import (
    BANDS,
    MEL,
    TONES,
    VOCABULARY,
    ctc_onnx,
    embedding_weights,
    sound_onnx,
    text_onnx,
    tiny_tokenizer,
    tone_weights,
)
from tests.pipeline.test_tables import table

LABELS = "-\na\nb\nc\n"
MODELS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "tone": {
        "preprocess": [
            {"use": "audio.decode", "rate": 16_000, "max_seconds": 10},
            {"use": "audio.pad_or_trim", "length": 16_000},
            MEL,
            {"use": "inputs.expand", "at": 1},
            {"use": "inputs.rename", "names": {"sound": "x"}},
        ],
        "postprocess": [{"use": "softmax"}, {"use": "top_k", "k": 2, "labels": "labels.txt"}],
    },
    "letters": {
        "preprocess": [
            {"use": "audio.decode", "rate": 16_000, "max_seconds": 10},
            {**MEL, "time": "first"},
            {"use": "audio.pad_or_trim", "time": "first", "value": -10},
        ],
        "postprocess": [{"use": "ctc.decode", "labels": "labels.txt", "scores": True, "beam": 4}],
    },
    "mood": {
        "preprocess": [{"use": "text.tokenize", "file": "tokenizer.json", "max_length": 12}],
        "postprocess": [
            {"use": "pool", "output": "hidden"},
            {"use": "normalize", "output": "hidden"},
            {"use": "rename", "names": {"hidden": "embedding"}},
            {"use": "argmax", "output": "logits"},
            {"use": "labels.decode", "output": "logits", "file": "labels.txt"},
        ],
    },
    "member": {
        "preprocess": [
            {"use": "tabular.impute", "file": "fitted.json"},
            {"use": "tabular.scale", "file": "fitted.json"},
            {"use": "tabular.encode", "file": "fitted.json", "input": "input", "to": "float64"},
        ],
        "postprocess": [{"use": "columns.split", "output": "probabilities", "names": ["no", "yes"]}],
    },
    "joined": {
        "preprocess": [{"use": "columns.join", "columns": ["width", "height"], "input": "x"}],
        "postprocess": [{"use": "sigmoid"}, {"use": "rename", "names": {"y": "odds"}}],
    },
}


def churn() -> Any:
    """A whole scikit-learn pipeline, from a table to probabilities."""
    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), ["age", "income"]),
            ("city", OneHotEncoder(categories=[["Oslo", "Paris", "Łódź"]]), ["city"]),
        ]
    )
    rows = table().fillna({"city": "Oslo"})
    return make_pipeline(columns, LogisticRegression()).fit(rows, rows["member"])


def lay_out(models: Path) -> None:
    folders = {name: models / name / "1" for name in MODELS}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        runtime, artifact = ("sklearn", "model.skops") if name == "member" else ("onnx", "model.onnx")
        manifest = {"name": name, "version": "1", "runtime": runtime, "artifact": artifact, "pipeline": MODELS[name]}
        (folder / "model.yaml").write_text(json.dumps(manifest))
    sound_onnx(folders["tone"] / "model.onnx")
    ctc_onnx(folders["letters"] / "model.onnx")
    text_onnx(folders["mood"] / "model.onnx")
    tiny_tokenizer(folders["mood"] / "tokenizer.json")
    mlp_onnx(folders["joined"] / "model.onnx", inputs=2, hidden=4, outputs=1)
    for name, labels in {"tone": LABELS, "letters": LABELS, "mood": "bad\ngood\n"}.items():
        (folders[name] / "labels.txt").write_text(labels)
    from skops import io

    fitted = churn()
    export_fitted(fitted, folders["member"] / "fitted.json")
    io.dump(fitted.steps[-1][1], folders["member"] / "model.skops")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("steps")
    lay_out(made / "models")
    return made


@pytest.fixture(scope="module")
def grpc_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def live(folder: Path, grpc_port: int) -> Iterator[LiveServer]:
    server = LiveServer(folder, "--models", str(folder / "models"), INFERENCE_ENGINE_GRPC_PORT=str(grpc_port))
    server.start()
    yield server
    assert server.stop() == 0


@pytest.fixture
def infer(live: LiveServer) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(live.url.removeprefix("http://"))


def sent(kind: Any = triton, /, **inputs: Any) -> list[Any]:
    made = []
    for name, values in inputs.items():
        array = np.array(values, dtype=object) if isinstance(values[0], bytes) else np.asarray(values)
        datatype = {"float64": "FP64", "float32": "FP32", "object": "BYTES"}[array.dtype.name]
        one = kind.InferInput(name, list(array.shape), datatype)
        one.set_data_from_numpy(array)
        made.append(one)
    return made


def written(text: str, kind: str = "wav", rate: int = 16_000, letter_s: float = 0.3) -> bytes:
    """Sound that spells `text` for the model `letters`; a dot is silence."""
    parts = [(TONES.get(letter, 0.0), letter_s if letter in TONES else 0.2) for letter in text]
    return sound_file(tones(*parts, rate=rate), kind, rate)


def test_tones_are_named_whatever_the_format_and_length(infer: triton.InferenceServerClient) -> None:
    files = [written("aaaa", "flac"), written("bbbb", "mp3", 44_100), written("ccc", "opus", 48_000), written("....")]
    answer = infer.infer("tone", sent(sound=files))
    assert answer.as_numpy("labels")[:, 0].tolist() == [b"a", b"b", b"c", b"-"]
    scores = answer.as_numpy("scores")
    assert (scores[:, 0] >= scores[:, 1]).all()


def test_letters_are_read_from_sound_of_any_length(infer: triton.InferenceServerClient, folder: Path) -> None:
    files = [written("a.b.c"), written("c"), written("a.a.b", "aiff", 44_100), written("cab", "webm", 48_000)]
    together = infer.infer("letters", sent(x=files))
    assert together.as_numpy("texts").tolist() == [b"abc", b"c", b"aab", b"cab"]
    for row, file in enumerate(files):  # a text does not hang on its neighbours
        alone = infer.infer("letters", sent(x=[file]))
        np.testing.assert_allclose(alone.as_numpy("scores")[0], together.as_numpy("scores")[row], rtol=1e-5)
    with Engine(models=str(folder / "models"), state_dir=folder / "engine") as engine:
        found = engine.predict("letters", {"x": files})
    assert found["texts"].tolist() == together.as_numpy("texts").tolist()
    np.testing.assert_allclose(found["scores"], together.as_numpy("scores"), rtol=1e-6)


def test_the_spectrogram_that_the_model_hears_is_the_formula(infer: triton.InferenceServerClient) -> None:
    """The scores of one clip, done by hand: frames, Fourier transform, bands, logarithm, the model, CTC."""
    sound = tones((TONES["b"], 0.2))
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), BANDS + 2) / 2595) - 1)
    bins = np.linspace(0, 8000, 257)[:, None]
    bank = np.minimum((bins - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - bins) / np.diff(edges)[1:]).clip(0)
    bank = bank * 2 / (edges[2:] - edges[:-2])
    padded = np.pad(sound.astype(np.float64), 256, mode="reflect")
    frames = np.stack([padded[at : at + 512] for at in range(0, len(padded) - 511, 320)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    energies = np.log10(np.maximum(np.abs(np.fft.rfft(frames * window)) ** 2 @ bank, 1e-10))
    weights, bias = tone_weights()
    logits = energies @ weights + bias
    likely = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert set(likely.argmax(1)) == {2}
    best = infer.infer("letters", sent(x=[sound_file(sound, "float")]))
    assert best.as_numpy("texts").tolist() == [b"b"]
    assert best.as_numpy("scores")[0] >= likely.max(1).sum() - 1e-4  # the text is at least as likely as its best path


def test_texts_get_their_mood_and_their_vector(live: LiveServer, grpc_port: int, folder: Path) -> None:
    texts = ["the cat sat", "The good dogs", "bad dog ? bad"]
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}")
    answer = client.infer("mood", sent(triton_grpc, text=[text.encode() for text in texts]))
    client.close()
    with Engine(models=str(folder / "models"), state_dir=folder / "engine") as engine:
        same = engine.predict("mood", {"text": texts})
    vectors, head = embedding_weights()
    words = [["the", "cat", "sat"], ["the", "good", "dog", "##s"], ["bad", "dog", "?", "bad"]]
    for row, tokens in enumerate(words):
        ids = [VOCABULARY.index(token) for token in ("[CLS]", *tokens, "[SEP]")]
        mean = vectors[ids].mean(axis=0)
        expected = mean / np.linalg.norm(mean)
        np.testing.assert_allclose(answer.as_numpy("embedding")[row], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(same["embedding"][row], expected, rtol=1e-5, atol=1e-6)
        mood = [b"bad", b"good"][int((vectors[ids].sum(axis=0) @ head).argmax())]
        assert answer.as_numpy("labels")[row] == same["labels"][row] == mood
    assert same["labels"].tolist()[1:] == [b"good", b"bad"]


def test_columns_get_what_the_whole_scikit_learn_pipeline_gives(infer: triton.InferenceServerClient) -> None:
    rows = table(7).fillna({"city": "Paris"})
    answer = infer.infer(
        "member",
        sent(
            age=rows["age"].to_numpy(), income=rows["income"].to_numpy(), city=[city.encode() for city in rows["city"]]
        ),
    )
    expected = churn().predict_proba(rows)
    np.testing.assert_allclose(answer.as_numpy("no"), expected[:, 0], atol=1e-9)
    np.testing.assert_allclose(answer.as_numpy("yes"), expected[:, 1], atol=1e-9)


def test_texts_and_columns_may_come_as_json(live: LiveServer) -> None:
    def ask(model: str, **columns: tuple[str, list[Any]]) -> dict[str, Any]:
        inputs = [
            {"name": name, "datatype": datatype, "shape": [len(data)], "data": data}
            for name, (datatype, data) in columns.items()
        ]
        answer = httpx.post(f"{live.url}/v2/models/{model}/infer", json={"inputs": inputs}, timeout=30)
        assert answer.status_code == 200, answer.text
        return {output["name"]: output["data"] for output in answer.json()["outputs"]}

    assert ask("mood", text=("BYTES", ["good", "bad"]))["labels"] == ["good", "bad"]
    row = {"age": ("FP64", [41.0]), "income": ("FP64", [52_000.0]), "city": ("BYTES", ["Łódź"])}
    found = ask("member", **row)  # type: ignore[arg-type]
    frame = table().head(1).assign(age=41.0, income=52_000.0, city="Łódź")
    np.testing.assert_allclose([found["no"][0], found["yes"][0]], churn().predict_proba(frame)[0], rtol=1e-9)


def test_named_columns_in_named_columns_out(infer: triton.InferenceServerClient, folder: Path) -> None:
    import onnxruntime

    width, height = np.array([0.5, -1, 2], np.float32), np.array([1, 0.25, -3], np.float32)
    answer = infer.infer("joined", sent(width=width, height=height))
    session = onnxruntime.InferenceSession(str(folder / "models" / "joined" / "1" / "model.onnx"))
    (logits,) = session.run(None, {"x": np.stack([width, height], axis=1)})
    np.testing.assert_allclose(answer.as_numpy("odds"), 1 / (1 + np.exp(-logits)), rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        ("letters", {"x": [written("a"), written("b", "flac")[:-300]]}, "input 'x' row 1 holds a recording that"),
        ("letters", {"x": [b"no sound"]}, "input 'x' row 0 holds no sound that can be read: send WAV"),
        ("letters", {"x": [written("a" * 40)]}, "row 0 holds a recording of more than 10 seconds"),
        ("mood", {"text": [b"cat", b"cat " * 20]}, "input 'text' row 1 has 22 tokens, the model takes 12"),
        ("mood", {"text": [b"\xff"]}, "input 'text' row 0 is not UTF-8 text"),
        ("mood", {"words": [b"cat"]}, r"input 'text' is missing; the model takes \['text'\]"),
        (
            "member",
            {"age": np.ones(2), "income": np.ones(2), "city": [b"Oslo", b"Atlantis"]},
            "input 'city' row 1 holds 'Atlantis': it must be one of 'Oslo'",
        ),
        ("member", {"age": np.ones(1), "city": [b"Oslo"]}, "input 'income' is missing"),
        ("joined", {"width": np.ones(2, "f4"), "depth": np.ones(2, "f4")}, "'height' is missing"),
    ],
)
def test_bad_input_is_named_and_good_input_still_served(
    infer: triton.InferenceServerClient, model: str, inputs: dict[str, Any], words: str
) -> None:
    with pytest.raises(InferenceServerException, match=words):
        infer.infer(model, sent(**inputs))
    assert infer.infer("letters", sent(x=[written("b")])).as_numpy("texts")[0] == b"b"


def test_many_clients_at_once_get_their_own(live: LiveServer) -> None:
    """Requests are merged, whatever their clips' lengths; a damaged one among them spoils nobody else's."""
    spellings = ["a", "b.b", "cab", "a.b.c.a", "c"] * 8

    def ask(spelling: str) -> bytes:
        client = triton.InferenceServerClient(live.url.removeprefix("http://"))
        return bytes(client.infer("letters", sent(x=[written(spelling)])).as_numpy("texts")[0])

    def spoil(_: int) -> str:
        client = triton.InferenceServerClient(live.url.removeprefix("http://"))
        with pytest.raises(InferenceServerException) as caught:
            client.infer("letters", sent(x=[written("abc")[:-50]]))
        return str(caught.value)

    with ThreadPoolExecutor(24) as pool:
        spoiled = [pool.submit(spoil, at) for at in range(4)]
        found = list(pool.map(ask, spellings))
        assert all("row 0 holds a recording that is cut off" in future.result() for future in spoiled)
    assert found == [spelling.replace(".", "").encode() for spelling in spellings]


def test_the_python_api_raises_the_same(folder: Path) -> None:
    with Engine(models=str(folder / "models"), state_dir=folder / "engine") as engine:
        with pytest.raises(InvalidTensor, match="row 0 holds a recording that is cut off") as caught:
            engine.predict("letters", {"x": [written("a")[:-10]]})
        assert caught.value.param == "x"
        with pytest.raises(InvalidTensor, match="row 1 has 22 tokens"):
            engine.predict("mood", {"text": ["cat", "cat " * 20]})


def test_the_command_line_sends_sound(live: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(written("aba", "mp3", 44_100))
    command = [sys.executable, "-m", "inference_engine", "predict", "letters", "--server", live.url, "--json"]
    done = subprocess.run(
        [*command, "--audio", str(tmp_path / "a.mp3")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    outputs = {output["name"]: output["data"] for output in json.loads(done.stdout)["outputs"]}
    assert outputs["texts"] == ["aba"]

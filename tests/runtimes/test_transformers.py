"""The transformers runtime on tiny random models, against the library's own `generate`."""

from __future__ import annotations

import io
import threading
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_engine.domain.errors import (
    ContextLengthExceeded,
    InvalidManifest,
    InvalidRequest,
    ModelLoadFailed,
    UnknownField,
    UnsupportedTask,
)
from inference_engine.domain.model import Execution, Manifest
from inference_engine.domain.ports import Loaded
from inference_engine.domain.requests import (
    Chat,
    Complete,
    ImagePart,
    JsonSchema,
    Message,
    Regex,
    Sampling,
    TextPart,
    Tool,
    ToolChoice,
    Transcribe,
)
from inference_engine.domain.results import Delivered, Delta, SegmentDelta, ToolCallDelta
from inference_engine.domain.text_tensors import DOCUMENT, EMBEDDING, QUERY, SCORE, TEXT, TOKENS, text_tensor
from inference_engine.infra.huggingface.folder import HfFolder
from inference_engine.infra.runtimes.transformers import TransformersRuntime
from inference_engine.infra.runtimes.transformers.loading import load_processor
from inference_engine.infra.runtimes.transformers.options import TransformersOptions
from tests.runtimes.conftest import Recorder, answer, delivered_of

torch = pytest.importorskip("torch", reason="torch is not installed: make .venv/slow.stamp")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: make .venv/slow.stamp")

from tests.fixtures import tiny_hf  # noqa: E402  needs the libraries

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]
Greedy = Sampling(max_tokens=24, temperature=0.0)
PROMPTS = ("The quick brown", "What is", '{"name": "value", "count"', "Grüße aus Köln: 日本", "x")


def manifest(task: str = "", **options: Any) -> Manifest:
    return Manifest(
        "m", "1", "transformers", ".", task=task, execution=Execution(threads=1, device="cpu"), options=options
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of models, each made once."""
    root = tmp_path_factory.mktemp("hf")

    def adapted(folder: Path) -> Path:
        tiny_hf.tiny_causal(folder)
        tiny_hf.tiny_adapter(folder, folder / "en", 1)
        return tiny_hf.tiny_adapter(folder, folder / "de", 2).parent

    makers: dict[str, Callable[[Path], Path]] = {
        "llama": tiny_hf.tiny_causal,
        "qwen3": lambda folder: tiny_hf.tiny_causal(folder, "Qwen3", head_dim=16),
        "mistral": lambda folder: tiny_hf.tiny_causal(folder, "Mistral", sliding_window=8),
        "mamba": lambda folder: tiny_hf.tiny_causal(folder, "Mamba"),
        "adapted": adapted,
        "bert": tiny_hf.tiny_bert,
        "classes": lambda folder: tiny_hf.tiny_bert(folder, "ForSequenceClassification", ["bad", "good", "so"]),
        "rerank": lambda folder: tiny_hf.tiny_bert(folder, "ForSequenceClassification", ["score"]),
        "llava": tiny_hf.tiny_llava,
        "qwen2_vl": tiny_hf.tiny_qwen2_vl,
        "whisper": tiny_hf.tiny_whisper,
        "wav2vec2": tiny_hf.tiny_wav2vec2,
    }

    def folder(name: str) -> Path:
        path = root / name
        return path if path.exists() else makers[name](path)

    return folder


class Open:
    """A runtime with its model, closed at the end of the test module."""

    def __init__(self, folder: Path, given: Manifest) -> None:
        self.folder = folder
        self.runtime = TransformersRuntime()
        self.loaded: Loaded = self.runtime.load(given, folder)


@pytest.fixture(scope="module")
def opened(models: Callable[[str], Path]) -> Iterator[Callable[..., Open]]:
    made: dict[str, Open] = {}

    def open_(name: str, task: str = "", **options: Any) -> Open:
        key = f"{name}{task}{options}"
        if key not in made:
            made[key] = Open(models(name), manifest(task, **options))
        return made[key]

    yield open_
    for one in made.values():
        one.runtime.close()


def reference(folder: Path, prompt: str, tokens: int, adapter: str | None = None) -> list[int]:
    """The greedy tokens of the library itself, its end token left out."""
    words = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    if adapter:
        model.load_adapter(str(folder / adapter), adapter_name=adapter)
    ids = words(prompt, return_tensors="pt")
    output = model.generate(**ids, max_new_tokens=tokens, do_sample=False)[0, ids["input_ids"].shape[1] :].tolist()
    return output[: output.index(words.eos_token_id)] if words.eos_token_id in output else output


def tokens_of(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas if not hasattr(delta, "reason") for token in delta.tokens]


# -- writing


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "mamba"])
def test_greedy_answers_together_are_those_of_the_library_alone(opened: Callable[..., Open], name: str) -> None:
    one = opened(name, prefill_chunk=3)
    assert one.loaded.concurrency == (1 if name == "mamba" else 16), one.loaded.details
    answers: dict[str, Recorder] = {}

    def ask(prompt: str) -> None:
        answers[prompt] = answer(one.runtime, Complete(prompt, Greedy))

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in PROMPTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    words = transformers.AutoTokenizer.from_pretrained(one.folder)
    for prompt in PROMPTS:
        expected = reference(one.folder, prompt, 24)
        assert tokens_of(answers[prompt].deltas) == expected
        assert answers[prompt].text == words.decode(expected, skip_special_tokens=True)
        usage = answers[prompt].done.usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (len(words(prompt)["input_ids"]), len(expected))


def test_a_continuation_is_the_rest_of_the_same_answer_even_a_random_one(opened: Callable[..., Open]) -> None:
    runtime = opened("llama").runtime
    for sampling in (Greedy, Sampling(max_tokens=24, temperature=1.3, top_p=0.9, top_k=40, seed=5)):
        whole = answer(runtime, Complete("The quick", sampling, echo=True))
        for cut in (1, 4, 9):
            rest = answer(runtime, Complete("The quick", sampling, echo=True), delivered_of(whole.texts[:cut]))
            assert rest.texts == whole.texts[cut:]
            assert rest.done == whole.done


def test_a_seed_repeats_an_answer_and_another_seed_gives_another(opened: Callable[..., Open]) -> None:
    def drawn(seed: int) -> str:
        sampling = Sampling(max_tokens=16, temperature=1.0, seed=seed)
        return answer(opened("llama").runtime, Complete("The", sampling)).text

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(4)}) > 1


def test_text_is_held_back_until_characters_are_whole(opened: Callable[..., Open]) -> None:
    runtime = opened("llama").runtime
    fox = tuple(transformers.AutoTokenizer.from_pretrained(opened("llama").folder)("🙂")["input_ids"])
    assert len(fox) > 1
    biased = Sampling(max_tokens=6, temperature=0.0, logit_bias={fox[0]: 100.0})
    for delta in answer(runtime, Complete("a", biased)).texts[:-1]:
        assert "�" not in delta.text


def test_stop_strings_end_an_answer_before_they_appear(opened: Callable[..., Open]) -> None:
    runtime = opened("llama").runtime
    whole = answer(runtime, Complete("The quick", Greedy)).text
    stop = whole[6:9]
    cut = answer(runtime, Complete("The quick", Sampling(max_tokens=24, temperature=0.0, stop=(stop,))))
    assert cut.text == whole[: whole.index(stop)]
    assert cut.done.reason == "stop"


def test_log_probabilities_are_those_of_the_model(opened: Callable[..., Open]) -> None:
    one = opened("llama")
    sampling = Sampling(max_tokens=3, temperature=0.0, logprobs=2)
    positions = [p for d in answer(one.runtime, Complete("What is", sampling)).texts for p in d.logprobs]
    assert len(positions) == 3
    model = transformers.AutoModelForCausalLM.from_pretrained(one.folder)
    ids = transformers.AutoTokenizer.from_pretrained(one.folder)("What is", return_tensors="pt")
    expected = model(**ids).logits[0, -1].log_softmax(-1)
    assert positions[0].chosen.logprob == pytest.approx(float(expected.max()), abs=1e-4)
    assert positions[0].top[0] == positions[0].chosen
    assert len(positions[0].top) == 2
    assert positions[0].top[1].logprob == pytest.approx(float(expected.topk(2).values[1]), abs=1e-4)


def test_sampling_values_do_what_they_say(opened: Callable[..., Open]) -> None:
    runtime = opened("llama").runtime

    def ids(**values: Any) -> list[int]:
        sampling = Sampling(max_tokens=20, **{"temperature": 0.0, **values})
        return tokens_of(answer(runtime, Complete("The", sampling)).deltas)

    greedy = ids()
    assert ids(temperature=3.0, top_k=1, seed=1) == greedy
    assert ids(temperature=3.0, top_p=1e-6, seed=1) == greedy
    assert ids(temperature=3.0, min_p=1.0, seed=1) == greedy
    assert ids(logit_bias={7: 100.0}) == [7] * 20
    assert ids(logit_bias={greedy[0]: -100.0})[0] != greedy[0]
    assert len(set(ids(frequency_penalty=2.0, presence_penalty=2.0, ignore_eos=True))) > len(set(greedy)) - 1
    assert len(ids(ignore_eos=True)) == 20
    assert ids(repeat_penalty=5.0, repeat_last_n=0) == greedy
    assert ids(temperature=1.0, typical_p=0.2, seed=3) == ids(temperature=1.0, typical_p=0.2, seed=3)


def test_a_cancelled_answer_ends_within_a_token(opened: Callable[..., Open]) -> None:
    one = opened("llama")
    sink = Recorder(lambda deltas: len(deltas) >= 3)
    one.runtime.generate(Complete("The", Sampling(max_tokens=400, temperature=0.0, ignore_eos=True)), Delivered(), sink)
    assert len(sink.deltas) <= 5
    assert one.runtime.gauges()["sequences_waiting"] == 0


def test_what_does_not_fit_the_context_is_refused_before_it_is_computed(opened: Callable[..., Open]) -> None:
    runtime = opened("llama", context_length=64).runtime
    for request in (Complete("word " * 100, Greedy), Complete("The", Sampling(max_tokens=64))):
        with pytest.raises(ContextLengthExceeded, match="tokens") as caught:
            runtime.generate(request, Delivered(), Recorder())
        assert caught.value.param == "prompt"
    with pytest.raises(InvalidRequest, match="token 99999"):
        runtime.generate(Complete((1, 99999), Greedy), Delivered(), Recorder())
    with pytest.raises(InvalidRequest, match="logit_bias"):
        runtime.generate(Complete("a", Sampling(logit_bias={99999: 1.0})), Delivered(), Recorder())
    with pytest.raises(UnsupportedTask, match="suffix"):
        runtime.generate(Complete("a", Greedy, suffix="b"), Delivered(), Recorder())


def test_chats_are_rendered_by_the_tokenizer(opened: Callable[..., Open]) -> None:
    one = opened("qwen3")
    request = Chat((Message("system", "Be brief."), Message("user", "What is the weather?")), Greedy)
    words = transformers.AutoTokenizer.from_pretrained(one.folder)
    messages = [{"role": message.role, "content": message.content} for message in request.messages]
    text = words.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert one.runtime.tokenize(request) == tuple(words(text, add_special_tokens=False)["input_ids"])
    assert tokens_of(answer(one.runtime, request).deltas) == reference(one.folder, text, 24)


def test_answers_are_bound_to_schemas_and_patterns_and_go_on_after_a_cut(opened: Callable[..., Open]) -> None:
    pytest.importorskip("xgrammar", reason="xgrammar is not installed")
    import json

    runtime = opened("llama").runtime
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type": "boolean"}},
        "required": ["n", "ok"],
        "additionalProperties": False,
    }
    for seed in range(3):
        sampling = Sampling(max_tokens=200, temperature=1.0, seed=seed)
        request = Chat((Message("user", "Go"),), sampling, JsonSchema(schema))
        whole = answer(runtime, request)
        value = json.loads(whole.text)
        assert 0 <= value["n"] <= 99
        assert isinstance(value["ok"], bool)
        assert whole.done.reason == "stop"
        rest = answer(runtime, request, delivered_of(whole.texts[:4]))
        assert "".join(d.text for d in whole.texts[:4]) + rest.text == whole.text
    bound = answer(runtime, Complete("Date: ", Sampling(max_tokens=60), Regex(r"20\d\d-[01]\d")))
    assert len(bound.text) == 7


def test_a_required_tool_call_parses_and_fits_its_schema(opened: Callable[..., Open]) -> None:
    pytest.importorskip("xgrammar", reason="xgrammar is not installed")
    import json

    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    request = Chat(
        (Message("user", "Weather?"),),
        Sampling(max_tokens=90, temperature=0.0),
        tools=(Tool("weather", parameters=schema),),
        tool_choice=ToolChoice("required", parallel=False),
    )
    sink = answer(opened("llama").runtime, request)
    calls = [delta for delta in sink.deltas if isinstance(delta, ToolCallDelta)]
    assert [call.name for call in calls if call.name] == ["weather"]
    assert json.loads("".join(call.text for call in calls))["city"] in ("Paris", "Rome")
    assert sink.done.reason == "tool_calls"


def test_adapters_are_chosen_per_request_and_never_mixed(opened: Callable[..., Open]) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    one = opened("adapted", adapters={"english": "en", "german": "de"})
    assert one.loaded.adapters == ("english", "german")
    wanted = [(adapter, prompt) for prompt in PROMPTS[:3] for adapter in (None, "english", "german")]
    answers: dict[Any, list[int]] = {}

    def ask(adapter: str | None, prompt: str) -> None:
        sink = answer(one.runtime, Complete(prompt, Greedy, adapter=adapter))
        answers[adapter, prompt] = tokens_of(sink.deltas)

    threads = [threading.Thread(target=ask, args=one_) for one_ in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for adapter, prompt in wanted:
        folder = {None: None, "english": "en", "german": "de"}[adapter]
        assert answers[adapter, prompt] == reference(one.folder, prompt, 24, folder), (adapter, prompt)
    assert len({tuple(answers[adapter, PROMPTS[0]]) for adapter in (None, "english", "german")}) == 3


def test_adapters_of_another_base_or_in_pickles_are_refused(models: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    folder = tiny_hf.tiny_causal(tmp_path / "wide", hidden_size=128)
    (folder / "en").symlink_to(models("adapted") / "en")
    with pytest.raises(InvalidManifest, match=r"adapters\.english"):  # leads out of the folder
        TransformersRuntime().load(manifest(adapters={"english": "en"}), folder)
    (folder / "en").unlink()
    import shutil

    shutil.copytree(models("adapted") / "en", folder / "en")
    with pytest.raises(ModelLoadFailed, match="another base"):
        TransformersRuntime().load(manifest(adapters={"english": "en"}), folder)
    (folder / "en/adapter_model.safetensors").rename(folder / "en/adapter_model.bin")
    with pytest.raises(ModelLoadFailed, match="SafeTensors"):
        TransformersRuntime().load(manifest(adapters={"english": "en"}), folder)


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_weights_are_rounded_when_asked_for(models: Callable[[str], Path], bits: str) -> None:
    pytest.importorskip("torchao", reason="torchao is not installed")
    runtime = TransformersRuntime()
    loaded = runtime.load(manifest(quantization=bits), models("llama"))
    assert loaded.details["quantization"] == bits
    assert answer(runtime, Complete("The", Greedy)).done.usage.completion_tokens > 0
    runtime.close()


# -- what may be loaded


def test_pickled_weights_and_foreign_code_need_trust(models: Callable[[str], Path], tmp_path: Path) -> None:
    import json
    import shutil

    folder = shutil.copytree(models("llama"), tmp_path / "p")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadFailed, match=r"options\.trust: \[pickle\]"):
        TransformersRuntime().load(manifest(), folder)
    runtime = TransformersRuntime()
    runtime.load(manifest(trust=["pickle"]), folder)
    assert tokens_of(answer(runtime, Complete("The", Greedy)).deltas) == reference(models("llama"), "The", 24)
    runtime.close()

    own = shutil.copytree(models("llama"), tmp_path / "c")
    config = json.loads((own / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}}
    (own / "config.json").write_text(json.dumps(config))
    (own / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    with pytest.raises(ModelLoadFailed, match=r"options\.trust: \[code\]"):
        TransformersRuntime().load(manifest("text-generation"), own)
    assert not (tmp_path / "ran").exists()


def test_damaged_or_missing_files_are_named(models: Callable[[str], Path], tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(models("llama"), tmp_path / "d")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelLoadFailed, match=str(folder)):
        TransformersRuntime().load(manifest(), folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadFailed, match=r"model\.safetensors is missing"):
        TransformersRuntime().load(manifest(), folder)
    with pytest.raises(InvalidManifest, match=r"options\.trusts"):
        TransformersRuntime().load(manifest(trusts=[]), models("llama"))
    with pytest.raises(InvalidManifest, match="trained for 512"):
        TransformersRuntime().load(manifest(context_length=4096), models("llama"))
    cuda = Manifest("m", "1", "transformers", ".", execution=Execution(device="cuda:7"))
    with pytest.raises(InvalidManifest, match="cuda:7"):
        TransformersRuntime().load(cuda, models("llama"))


# -- rows of text


@pytest.mark.parametrize("mode", ["mean_tokens", "cls_token", "lasttoken"])
def test_embeddings_are_pooled_as_the_folder_says(models: Callable[[str], Path], tmp_path: Path, mode: str) -> None:
    import shutil

    folder = shutil.copytree(models("bert"), tmp_path / "st")
    tiny_hf.sentence_files(folder, mode)
    runtime = TransformersRuntime()
    loaded = runtime.load(manifest(), folder)
    assert loaded.kinds == ("embed", "predict")
    texts = ["The quick brown fox", "a"]
    outputs = runtime.run({TEXT: text_tensor(texts)})
    model = transformers.AutoModel.from_pretrained(folder)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    for row, text in enumerate(texts):
        ids = words(text, return_tensors="pt")
        states = model(**ids).last_hidden_state[0]
        vector = {"mean_tokens": states.mean(0), "cls_token": states[0], "lasttoken": states[-1]}[mode]
        expected = torch.nn.functional.normalize(vector, dim=0).detach().numpy()
        if mode == "lasttoken":  # BERT counts positions from the padding on
            expected = outputs[EMBEDDING][row] if row else expected
        np.testing.assert_allclose(outputs[EMBEDDING][row], expected, atol=1e-5)
        assert outputs[TOKENS][row] == ids["input_ids"].shape[1]
    with pytest.raises(ContextLengthExceeded, match="this model takes 64"):
        runtime.run({TEXT: text_tensor(["word " * 200])})
    runtime.close()


def test_a_module_that_is_not_computed_here_is_refused(models: Callable[[str], Path], tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(models("bert"), tmp_path / "st")
    tiny_hf.sentence_files(folder, "mean_tokens")
    text = (folder / "modules.json").read_text()
    (folder / "modules.json").write_text(text.replace("Normalize", "Dense"))
    with pytest.raises(ModelLoadFailed, match="Dense"):
        TransformersRuntime().load(manifest(), folder)


def test_documents_are_scored_by_the_cross_encoder(opened: Callable[..., Open]) -> None:
    one = opened("rerank")
    assert one.loaded.kinds == ("rerank", "predict")
    documents = ["Paris is a city", "The dog", "12345 items"]
    outputs = one.runtime.run({QUERY: text_tensor(["what is Paris?"] * 3), DOCUMENT: text_tensor(documents)})
    model = transformers.AutoModelForSequenceClassification.from_pretrained(one.folder)
    words = transformers.AutoTokenizer.from_pretrained(one.folder)
    expected = [float(model(**words("what is Paris?", d, return_tensors="pt")).logits[0, 0]) for d in documents]
    np.testing.assert_allclose(outputs[SCORE], expected, atol=1e-5)


def test_texts_are_classified(opened: Callable[..., Open]) -> None:
    one = opened("classes")
    assert one.loaded.kinds == ("predict",)
    outputs = one.runtime.run({TEXT: text_tensor(["The dog", "What is the weather?"])})
    assert outputs["scores"].shape == (2, 3)
    np.testing.assert_allclose(outputs["scores"].sum(1), 1.0, atol=1e-5)
    assert [label.decode() for label in outputs["label"]] == [
        ["bad", "good", "so"][place] for place in outputs["scores"].argmax(1)
    ]
    with pytest.raises(UnsupportedTask):
        one.runtime.generate(Complete("a"), Delivered(), Recorder())


# -- images


def image(color: tuple[int, int, int], size: int = 40) -> ImagePart:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (size, size), color).save(file, "PNG")
    return ImagePart(file.getvalue(), "image/png")


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_answers_depend_on_the_images_of_a_message_as_in_the_library(opened: Callable[..., Open], name: str) -> None:
    from PIL import Image

    one = opened(name)
    assert one.loaded.media == ("image",)
    hf, options = HfFolder(one.folder), TransformersOptions()
    processor = load_processor(hf, options)
    model = transformers.AutoModelForImageTextToText.from_pretrained(one.folder)
    seen = set()
    for color in ((255, 0, 0), (0, 20, 255)):
        part = image(color)
        request = Chat((Message("user", (part, TextPart("What is this?"))),), Greedy)
        sink = answer(one.runtime, request)
        picture = Image.open(io.BytesIO(part.data))
        placed = "<image>" if name == "llava" else "<|vision_start|><|image_pad|><|vision_end|>"
        text = f"<|im_start|>user\n{placed}What is this?<|im_end|>\n<|im_start|>assistant\n"
        inputs = processor(text=[text], images=[picture], return_tensors="pt")
        expected = model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        ids = [token for token in expected.tolist() if token != processor.tokenizer.eos_token_id]
        assert tokens_of(sink.deltas) == ids
        assert len(one.runtime.tokenize(request)) == sink.done.usage.prompt_tokens == inputs["input_ids"].shape[1]
        seen.add(tuple(ids))
        rest = answer(one.runtime, request, delivered_of(sink.texts[:3]))
        assert rest.texts == sink.texts[3:]
    assert len(seen) == 2


def test_what_is_no_image_or_too_large_is_refused(opened: Callable[..., Open]) -> None:
    runtime = opened("llava", max_pixels=10_000).runtime
    for part, problem in ((ImagePart(b"GIF89a nonsense"), "cannot be decoded"), (image((0, 0, 0), 200), "200 x 200")):
        with pytest.raises(InvalidRequest, match=problem) as caught:
            runtime.generate(Chat((Message("user", (part,)),)), Delivered(), Recorder())
        assert caught.value.param == "messages[0].content"


# -- speech


def recording(seconds: float, rate: int = 22050, hertz: float = 440.0) -> bytes:
    times = np.arange(int(seconds * rate)) / rate
    samples = (np.sin(2 * np.pi * hertz * times * (1 + 0.3 * np.sin(times * 3))) * 20000).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(samples.tobytes())
    return file.getvalue()


def test_whisper_writes_what_the_library_writes(opened: Callable[..., Open]) -> None:
    from inference_engine.infra.runtimes.transformers.audio import decode_audio

    one = opened("whisper")
    assert one.loaded.kinds == ("transcribe",)
    audio = recording(1.5)
    sink = answer(one.runtime, Transcribe(audio, language="de"))
    model = transformers.WhisperForConditionalGeneration.from_pretrained(one.folder)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(one.folder)
    features = extractor(decode_audio(audio, 16000, 60, 1 << 20), sampling_rate=16000, return_tensors="pt")
    expected = model.generate(features["input_features"], language="de", task="transcribe", do_sample=False)[0].tolist()
    words = transformers.AutoTokenizer.from_pretrained(one.folder)
    first_time = words.convert_tokens_to_ids("<|0.00|>")
    end = next((place for place, token in enumerate(expected) if token >= first_time), len(expected))
    text = [token for token in expected[:end] if token not in words.all_special_ids]
    assert len(text) > 3
    assert tokens_of(sink.deltas)[: len(text)] == text


def test_segments_cover_a_long_recording_in_order(opened: Callable[..., Open]) -> None:
    runtime = opened("whisper").runtime
    sink = answer(runtime, Transcribe(recording(7.0), timestamps=True))
    segments = [delta for delta in sink.deltas if isinstance(delta, SegmentDelta)]
    assert segments
    assert all(0 <= one.start_s <= one.end_s <= 7.1 for one in segments)
    assert [one.start_s for one in segments] == sorted(one.start_s for one in segments)
    whole = "".join(one.text for one in segments)
    rest = answer(runtime, Transcribe(recording(7.0), timestamps=True), Delivered(whole[:5], (whole[:5],)))
    assert "".join(d.text for d in rest.deltas if isinstance(d, SegmentDelta)) == whole[5:]


def test_recordings_that_cannot_be_heard_are_refused(opened: Callable[..., Open]) -> None:
    runtime = opened("whisper", max_audio_s=2).runtime
    for request, problem in (
        (Transcribe(b"RIFF nonsense"), "cannot be decoded"),
        (Transcribe(recording(3.0)), "longer than 2 seconds"),
        (Transcribe(recording(1.0), language="xx"), "known are: de, en"),
        (Transcribe(recording(1.0), prompt="word " * 200), "prompt has"),
    ):
        with pytest.raises(InvalidRequest, match=problem):
            runtime.generate(request, Delivered(), Recorder())
    with pytest.raises(UnknownField, match="stop"):
        runtime.generate(Transcribe(recording(1.0), sampling=Sampling(stop=("a",))), Delivered(), Recorder())
    with pytest.raises(UnsupportedTask):
        runtime.generate(Complete("a"), Delivered(), Recorder())


def test_a_ctc_model_labels_what_the_library_labels(opened: Callable[..., Open]) -> None:
    from inference_engine.infra.runtimes.transformers.audio import decode_audio

    one = opened("wav2vec2")
    audio = recording(3.0)
    sink = answer(one.runtime, Transcribe(audio))
    model = transformers.AutoModelForCTC.from_pretrained(one.folder)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(one.folder)
    words = transformers.AutoTokenizer.from_pretrained(one.folder)
    inputs = extractor(decode_audio(audio, 16000, 60, 1 << 20), sampling_rate=16000, return_tensors="pt")
    assert sink.text == words.decode(model(**inputs).logits[0].argmax(-1))
    timed = answer(one.runtime, Transcribe(audio, timestamps=True))
    assert "".join(d.text for d in timed.deltas if isinstance(d, SegmentDelta)).split() == sink.text.split()
    with pytest.raises(UnknownField, match="language"):
        one.runtime.generate(Transcribe(audio, language="en"), Delivered(), Recorder())


def test_resampling_keeps_a_tone_and_drops_what_the_new_rate_cannot_hold() -> None:
    from inference_engine.infra.runtimes.transformers.audio import resampled

    for hertz, source, target, level in (
        (440.0, 44100, 16000, 0.707),
        (440.0, 8000, 16000, 0.707),
        (12000.0, 44100, 16000, 0.0),
        (440.0, 44101, 16000, 0.707),
    ):
        samples = np.sin(2 * np.pi * hertz * np.arange(source) / source).astype(np.float32)
        output = resampled(samples, source, target)
        assert len(output) == target
        middle = output[1000:-1000]
        assert float(np.sqrt((middle**2).mean())) == pytest.approx(level, abs=0.01)
        if level:
            expected = np.sin(2 * np.pi * hertz * np.arange(target) / target)[1000:-1000]
            np.testing.assert_allclose(middle, expected, atol=0.01)

"""A loaded model that writes down speech: Whisper's kind, which generates, and CTC models, which label each instant.

A continuation is computed again and what was delivered is left out: a recording's text follows from the recording.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import msgspec

from inference_engine.domain.errors import InvalidRequest, RunnerLost, UnknownField, UnsupportedTask
from inference_engine.domain.ports import Loaded, Sink
from inference_engine.domain.requests import Generate, Sampling, Transcribe
from inference_engine.domain.results import Delivered, Done, SegmentDelta, TextDelta, Usage
from inference_engine.domain.tensors import Array
from inference_engine.infra.huggingface.folder import HfFolder
from inference_engine.infra.huggingface.vocabulary import Detokenizer, Vocabulary
from inference_engine.infra.runtimes.transformers.audio import decode_audio
from inference_engine.infra.runtimes.transformers.loading import LoadedModel, Placement, load_model, load_part
from inference_engine.infra.runtimes.transformers.options import TransformersOptions
from inference_engine.infra.runtimes.transformers.sampling import Sampler
from inference_engine.infra.runtimes.transformers.sequences import SequenceRun
from inference_engine.infra.runtimes.transformers.single import SingleFile
from inference_engine.infra.runtimes.transformers.whisper import STEP_S, ControlTokens, Rules

_CTC_WINDOW_S, _CTC_OVERLAP_S = 30, 5
_CTC_PAUSE_S, _CTC_SEGMENT_S = 0.5, 10.0
_REFUSED = ("max_tokens", "stop", "logprobs", "logit_bias", "ignore_eos")

Heard = TextDelta | SegmentDelta


class _Listener(Protocol):
    """Writes down the samples of one recording, as it goes."""

    prompt_tokens: int

    def check(self, request: Transcribe) -> None: ...

    def hear(self, samples: Array, request: Transcribe, sink: Sink) -> Iterator[Heard]: ...


class SpeechModel:
    """Answers transcriptions with one model."""

    def __init__(
        self, loaded: LoadedModel, listener: _Listener, turn: SingleFile, rate: int, options: TransformersOptions
    ) -> None:
        self.model = loaded.model
        self._listener = listener
        self._turn = turn
        self._rate = rate
        self._options = options

    def loaded(self, details: dict[str, Any]) -> Loaded:
        return Loaded(("transcribe",), details=details | {"sampling_rate": self._rate})

    def generate(self, request: Generate, delivered: Delivered, sink: Sink) -> None:
        if not isinstance(request, Transcribe):
            raise UnsupportedTask("this model writes down speech: send it a recording", param="model")
        _check_sampling(request.sampling)
        self._listener.check(request)
        if delivered.text and (request.sampling.temperature or 0) > 0 and request.sampling.seed is None:
            raise RunnerLost("a transcription drawn at random, without a seed, cannot be continued")
        samples = decode_audio(request.audio, self._rate, self._options.max_audio_s, self._options.max_audio_mib << 20)
        skip = len(delivered.text)
        tokens = 0
        for delta in self._listener.hear(samples, request, sink):
            tokens += len(delta.tokens)
            if skip >= len(delta.text):
                skip -= len(delta.text)
                continue
            sink.emit(msgspec.structs.replace(delta, text=delta.text[skip:], tokens=()) if skip else delta)
            skip = 0
        if not sink.cancelled:
            sink.emit(Done("stop", Usage(self._listener.prompt_tokens, tokens)))

    def tokenize(self, request: Generate) -> tuple[int, ...]:  # noqa: ARG002  the port's shape
        raise UnsupportedTask("a recording has no tokens to be told", param="model")

    def gauges(self) -> Mapping[str, float]:
        return self._turn.gauges()

    def close(self) -> None:
        self._turn.close()


def load_speech(folder: HfFolder, options: TransformersOptions, placement: Placement) -> SpeechModel:
    """The speech model in `folder`. Raises what `load_model` raises."""
    extractor = load_part("AutoFeatureExtractor", folder, options)
    tokenizer = load_part("AutoTokenizer", folder, options)
    ctc = folder.architecture.endswith("ForCTC")
    loaded = load_model(folder, "AutoModelForCTC" if ctc else "AutoModelForSpeechSeq2Seq", options, placement)
    turn = SingleFile(loaded.model, loaded.switch)
    listener: _Listener = (
        _Ctc(loaded.model, extractor, tokenizer)
        if ctc
        else _Whisper(loaded.model, extractor, tokenizer, folder.generation_defaults(), turn, options)
    )
    return SpeechModel(loaded, listener, turn, int(extractor.sampling_rate), options)


def _check_sampling(sampling: Sampling) -> None:
    for name in _REFUSED:
        if getattr(sampling, name) not in (None, (), {}, False):
            raise UnknownField(f"{name} has no meaning for a transcription: leave it out", param=name)


class _Whisper:
    """Windows of half a minute, each from where the one before it was understood."""

    def __init__(
        self,
        model: Any,
        extractor: Any,
        tokenizer: Any,
        config: dict[str, Any],
        turn: SingleFile,
        options: TransformersOptions,
    ) -> None:
        self._model = model
        self._extractor = extractor
        self._vocabulary = Vocabulary(tokenizer, int(model.config.vocab_size))
        self._tokens = ControlTokens.of(tokenizer, config)
        self._turn = turn
        self._options = options
        self._most = int(model.config.max_target_positions)
        self.prompt_tokens = 0

    def check(self, request: Transcribe) -> None:
        self._tokens.prompt(request, self._tokens.language(request.language), self._before(request), times=True)

    def _before(self, request: Transcribe) -> list[int]:
        ids = self._vocabulary.ids_inside(f" {request.prompt.strip()}") if request.prompt.strip() else []
        most = self._most // 2 - 1
        if len(ids) > most:
            raise InvalidRequest(f"prompt has {len(ids)} tokens, at most {most} are taken: shorten it", param="prompt")
        return ids

    def hear(self, samples: Array, request: Transcribe, sink: Sink) -> Iterator[Heard]:
        window = int(self._extractor.n_samples)
        rate = int(self._extractor.sampling_rate)
        times = request.timestamps or len(samples) > window
        language = self._tokens.language(request.language)
        self.prompt_tokens = len(self._before(request))
        start = 0
        while start < len(samples) and not sink.cancelled:
            part = samples[start : start + window]
            features = self._features(part)
            if language is None and self._tokens.languages:
                language = self._found_language(features)
            prompt = self._tokens.prompt(request, language, self._before(request), times=times)
            run = self._run(features, prompt, request.sampling, sink, times=times)
            self._turn.start(run)
            if not times:
                yield from self._streamed(run)
                return
            segments = _Segments(self._tokens.first_time, start / rate, len(part) / rate)
            for event in run.events():
                if not isinstance(event, str) and (closed := segments.take(event.token)):
                    yield self._segment(closed, request)
            if (rest := segments.rest()) is not None:
                yield self._segment(rest, request)
            start += max(rate // 10, int(segments.understood_s * rate))

    def _features(self, samples: Array) -> Any:
        made = self._extractor(samples, sampling_rate=self._extractor.sampling_rate, return_tensors="pt")
        return made["input_features"].to(self._model.device, self._model.dtype)

    def _run(self, features: Any, prompt: list[int], sampling: Sampling, sink: Sink, *, times: bool) -> SequenceRun:
        import torch

        if sampling.temperature is None:
            sampling = msgspec.structs.replace(sampling, temperature=0.0)
        sampler = Sampler(
            sampling, self._options.sampling, {}, (self._tokens.end,), self._vocabulary.size,
            prompt, (), Rules(self._tokens, times=times),
        )  # fmt: skip
        inputs = {
            "input_features": features,
            "decoder_input_ids": torch.tensor([prompt], device=self._model.device),
        }
        return SequenceRun(prompt, sampler, self._most - len(prompt), sink, inputs=inputs)

    def _found_language(self, features: Any) -> int:
        import torch

        with torch.inference_mode():
            start = torch.tensor([[self._tokens.start]], device=self._model.device)
            logits = self._model(input_features=features, decoder_input_ids=start).logits[0, -1]
        return max(self._tokens.languages.values(), key=lambda token: float(logits[token]))

    def _streamed(self, run: SequenceRun) -> Iterator[TextDelta]:
        detokenizer = Detokenizer(self._vocabulary, {})
        for event in run.events():
            piece = detokenizer.end() if isinstance(event, str) else detokenizer.add(event.token)
            if piece is not None:
                yield TextDelta(*piece)

    def _segment(self, segment: tuple[float, float, list[int]], request: Transcribe) -> Heard:
        start_s, end_s, ids = segment
        text = self._vocabulary.text(ids)
        return (
            SegmentDelta(text, tuple(ids), start_s=start_s, end_s=end_s)
            if request.timestamps
            else TextDelta(text, tuple(ids))
        )


class _Segments:
    """Cuts a window's tokens at their times."""

    def __init__(self, first_time: int, offset_s: float, length_s: float) -> None:
        self._first = first_time
        self._offset_s = offset_s
        self._length_s = length_s
        self._start_s = 0.0
        self._ids: list[int] = []
        self._closed_s: float | None = None

    @property
    def understood_s(self) -> float:
        """Up to where the window is written down."""
        return self._length_s if self._closed_s is None or not self._ids else self._closed_s

    def take(self, token: int) -> tuple[float, float, list[int]] | None:
        """The segment that this token closes: its start and end in seconds, and its ids."""
        if token < self._first:
            self._ids.append(token)
            return None
        time_s = min((token - self._first) * STEP_S, self._length_s)
        if not self._ids:
            self._start_s = time_s
            return None
        segment = (self._offset_s + self._start_s, self._offset_s + time_s, self._ids)
        self._start_s = self._closed_s = time_s
        self._ids = []
        return segment

    def rest(self) -> tuple[float, float, list[int]] | None:
        """Text that no time closes: a window of its own, unless the next window hears it again from its start."""
        if not self._ids or (self._closed_s or 0.0) > 0.0:
            return None
        return self._offset_s + self._start_s, self._offset_s + self._length_s, self._ids


class _Ctc:
    """Labels each instant; windows overlap, and of each its middle counts."""

    prompt_tokens = 0

    def __init__(self, model: Any, extractor: Any, tokenizer: Any) -> None:
        self._model = model
        self._extractor = extractor
        self._tokenizer = tokenizer
        self._ratio = int(getattr(model.config, "inputs_to_logits_ratio", 0)) or 320

    def check(self, request: Transcribe) -> None:
        for name, given in (
            ("language", request.language),
            ("prompt", request.prompt),
            ("translate", request.translate),
            ("temperature", request.sampling.temperature),
        ):
            if given:
                raise UnknownField(
                    f"{name} is not possible with this model, which labels sounds: leave it out", param=name
                )

    def hear(self, samples: Array, request: Transcribe, sink: Sink) -> Iterator[Heard]:
        labels: list[int] = []
        given = ""
        for part, final in self._windows(samples):
            if sink.cancelled:
                return
            labels += part
            if request.timestamps and final:
                yield from self._segments(labels)
            elif not request.timestamps:
                text = self._tokenizer.decode(labels)
                stable = text if final else text[: text.rfind(" ") + 1]  # the last word may go on
                if len(stable) > len(given):
                    yield TextDelta(stable[len(given) :])
                    given = stable

    def _windows(self, samples: Array) -> Iterator[tuple[list[int], bool]]:
        """The labels of each window's middle, and whether it is the last window."""
        rate = int(self._extractor.sampling_rate)
        size, overlap = _CTC_WINDOW_S * rate, _CTC_OVERLAP_S * rate
        start = 0
        while True:
            low = max(0, start - overlap)
            high = min(len(samples), low + size)
            final = high == len(samples)
            end = high if final else high - overlap
            labels = self._labels(samples[low:high])
            first, last = (start - low) // self._ratio, len(labels) if final else (end - low) // self._ratio
            yield labels[first:last], final
            if final:
                return
            start = end

    def _labels(self, samples: Array) -> list[int]:
        import torch

        least = 2 * self._ratio
        if len(samples) < least:  # shorter than what the model sees at once
            samples = _padded(samples, least)
        made = self._extractor(samples, sampling_rate=self._extractor.sampling_rate, return_tensors="pt")
        key = "input_values" if "input_values" in made else "input_features"
        with torch.inference_mode():
            logits = self._model(made[key].to(self._model.device, self._model.dtype)).logits[0]
        return [int(label) for label in logits.argmax(-1)]

    def _segments(self, labels: list[int]) -> Iterator[SegmentDelta]:
        step_s = self._ratio / int(self._extractor.sampling_rate)
        words = self._tokenizer.decode(labels, output_word_offsets=True).word_offsets
        group: list[dict[str, Any]] = []
        between = ""
        for word in [*words, None]:
            if group and (word is None or _ends(group, word, step_s)):
                text = " ".join(str(one["word"]) for one in group)
                yield SegmentDelta(
                    between + text, start_s=group[0]["start_offset"] * step_s, end_s=group[-1]["end_offset"] * step_s
                )
                group, between = [], " "
            if word is not None:
                group.append(word)


def _padded(samples: Array, size: int) -> Array:
    import numpy as np

    return np.pad(samples, (0, size - len(samples)))


def _ends(group: list[dict[str, Any]], word: dict[str, Any], step_s: float) -> bool:
    """Whether a pause or its length ends a group of words before `word`."""
    pause_s: float = (word["start_offset"] - group[-1]["end_offset"]) * step_s
    length_s: float = (word["end_offset"] - group[0]["start_offset"]) * step_s
    return pause_s > _CTC_PAUSE_S or length_s > _CTC_SEGMENT_S

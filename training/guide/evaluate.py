"""Asks a written model the held-out questions and counts how often the answer is the right topic's."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.guide.corpus import Corpus, HeldOut

LONGEST_ANSWER = 400
ROWS = 32


class Answerer:
    """Answers chats with the SafeTensors source through transformers, in float32."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def answers(self, chats: Sequence[list[dict[str, str]]], temperature: float = 0.0) -> list[str]:
        """One answer per chat; temperature 0 is greedy."""
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        found: list[str] = []
        for start in range(0, len(chats), ROWS):
            texts = [
                self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
                for chat in chats[start : start + ROWS]
            ]
            inputs = self._tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
            with torch.inference_mode():
                ids = self._model.generate(**inputs, max_new_tokens=LONGEST_ANSWER, **sampling)
            found += self._tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return found


def nearest(answer: str, corpus: Corpus) -> tuple[str, float]:
    """The topic whose answer is most like the given one, and how like it is, from 0 to 1."""
    exact = [topic.id for topic in corpus.topics.values() if topic.answer == answer.strip()]
    if exact:
        return exact[0], 1.0
    scores = {
        topic.id: difflib.SequenceMatcher(None, topic.answer, answer, autojunk=False).ratio()
        for topic in corpus.topics.values()
    }
    best = max(scores, key=scores.__getitem__)
    return best, scores[best]


def chat_of(case: HeldOut, corpus: Corpus) -> list[dict[str, str]]:
    """The messages of an evaluation dialogue, earlier answers as the corpus has them."""
    chat: list[dict[str, str]] = []
    for question, topic in case.before:
        chat.append({"role": "user", "content": question})
        chat.append({"role": "assistant", "content": corpus.topics[topic].answer})
    return [*chat, {"role": "user", "content": case.question}]


def evaluate(corpus: Corpus, folder: Path, temperature: float = 0.0) -> None:
    """Print every miss, and for each held-out set the share of questions answered with the right topic."""
    torch.manual_seed(0)
    answerer = Answerer(folder)
    for name, cases in corpus.held_out.items():
        answers = answerer.answers([chat_of(case, corpus) for case in cases], temperature)
        right = whole = 0
        for case, answer in zip(cases, answers, strict=True):
            topic, likeness = nearest(answer, corpus)
            right += topic in case.topics
            whole += likeness == 1.0
            if topic not in case.topics:
                print(f"miss: {case.question!r} wanted {'/'.join(case.topics)} got {topic} ({likeness:.2f})")
        share = f"right topic {right} of {len(cases)} ({right / len(cases):.1%})"
        print(f"{name} at temperature {temperature}: {share}; word for word as taught {whole}", flush=True)

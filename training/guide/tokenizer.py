"""Trains guide's byte-level BPE tokenizer and turns conversations into token ids with loss targets."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.guide.dialogues import Message

VOCABULARY_SIZE = 1536
CONTEXT_LENGTH = 2048
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
IGNORED = -100
DECIDING, DECIDING_WEIGHT, QUESTION_WEIGHT = 8, 3.0, 0.1
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE tokenizer with GPT-2's word splitting, so any UTF-8 text has tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> PreTrainedTokenizerFast:
    """Write `tokenizer.json` and `tokenizer_config.json` with the chat template."""
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call] # transformers has no type for it
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=[START],
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder, save_jinja_files=False)
    return fast


@dataclass
class Row:
    """One training sequence: ids, the weight of each id as a target, and the topic to be known at some places."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    topics: list[int] = field(default_factory=list)

    def add(self, ids: list[int], weight: float) -> None:
        """Append ids that all have one weight."""
        self.ids += ids
        self.weights += [weight] * len(ids)
        self.topics += [IGNORED] * len(ids)


class Encoder:
    """Encodes training texts; cuts some questions at random places, so that rare token splits are learned too."""

    def __init__(self, tokenizer: Tokenizer, topics: Sequence[str], seed: int) -> None:
        self._tokenizer = tokenizer
        self._topics = {topic: place for place, topic in enumerate(topics)}
        self._rng = random.Random(seed)

    def conversation(self, messages: Sequence[Message], whole: bool) -> Row:
        """A conversation; the first words of an answer weigh most, for they decide the topic.

        Unless `whole`, the last answer is left after its first words, which saves time while topics are learned.
        """
        row = Row()
        for message in messages:
            if message.role == "assistant":
                row.add(self._ids(f"{START}assistant\n"), 0.0)
                row.topics[-1] = self._topics[message.topic]
                answer = self._ids(message.text + END)
                row.add(answer[:DECIDING], DECIDING_WEIGHT)
                if message is messages[-1] and not whole:
                    break
                row.add(answer[DECIDING:], 1.0)
                row.add(self._ids("\n"), 0.0)
            else:
                row.add(self._ids(f"{START}{message.role}\n"), 0.0)
                row.add(self._cut(message.text), QUESTION_WEIGHT if message.role == "user" else 0.0)
                row.add(self._ids(f"{END}\n"), 0.0)
        return Row(row.ids[:CONTEXT_LENGTH], row.weights[:CONTEXT_LENGTH], row.topics[:CONTEXT_LENGTH])

    def text(self, text: str) -> Row:
        """Plain text, every token a target."""
        row = Row()
        row.add(self._ids(text + END)[:CONTEXT_LENGTH], 1.0)
        return row

    def _cut(self, text: str) -> list[int]:
        if self._rng.random() < 0.75 or len(text) < 3:
            return self._ids(text)
        places = sorted({self._rng.randrange(1, len(text)) for _ in range(self._rng.randint(1, 3))})
        parts = [text[start:stop] for start, stop in zip([0, *places], [*places, len(text)], strict=True)]
        return [token for part in parts for token in self._ids(part)]

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

"""Trains the model on conversations drawn as it goes; deterministic on one machine with a fixed thread count."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from training.guide.corpus import Corpus
from training.guide.dialogues import Drawer
from training.guide.tokenizer import CONTEXT_LENGTH, END, IGNORED, PAD, Encoder, Row

POOL = 1024
EXCERPT_SHARE = 0.08
EARLY, EARLY_WHOLE_SHARE = 0.6, 0.15
TOPIC_WEIGHT = 0.5


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train; one step sees about `batch_tokens` tokens."""

    steps: int = 2200
    batch_tokens: int = 4096
    muon_rate: float = 0.02
    adam_rate: float = 4e-3
    warmup_steps: int = 40
    threads: int = 2
    seed: int = 20


@dataclass(frozen=True)
class Batch:
    """Tensors [rows, length]: token ids, weight of each id as a target, topic index or -100."""

    ids: Tensor
    weights: Tensor
    topics: Tensor


def make_model(tokenizer: Tokenizer, seed: int) -> LlamaForCausalLM:
    """A fresh Llama of 1.48 million parameters; every row length divides by 32, as Q8_0 demands."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(PAD),
        initializer_range=0.04,
        use_cache=True,
    )
    config._attn_implementation = "sdpa"
    return LlamaForCausalLM(config)


def batches(corpus: Corpus, tokenizer: Tokenizer, recipe: Recipe) -> Iterator[Batch]:
    """Batches of similar lengths, one per step: first short conversations with cut answers, then whole ones."""
    drawer = Drawer(corpus, recipe.seed)
    encoder = Encoder(tokenizer, list(corpus.topics), recipe.seed + 1)
    rng = random.Random(recipe.seed + 2)
    done = 0
    while True:
        early = done < recipe.steps * EARLY
        whole_share = EARLY_WHOLE_SHARE if early else 1.0
        rows: list[Row] = []
        for _ in range(POOL):
            if rng.random() < EXCERPT_SHARE * whole_share:
                rows.append(encoder.text(drawer.excerpt()))
            else:
                rows.append(encoder.conversation(drawer.conversation(short=early), whole=rng.random() < whole_share))
        rows.sort(key=lambda row: len(row.ids))
        groups: list[list[Row]] = [[]]
        for row in rows:
            if groups[-1] and (len(groups[-1]) + 1) * len(row.ids) > recipe.batch_tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        done += len(groups)
        yield from map(pad, groups)


def pad(rows: list[Row]) -> Batch:
    """One batch, padded on the right with id 0 of weight 0."""
    length = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    weights = torch.zeros(len(rows), length)
    topics = torch.full((len(rows), length), IGNORED, dtype=torch.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row.ids)] = torch.tensor(row.ids)
        weights[place, : len(row.ids)] = torch.tensor(row.weights)
        topics[place, : len(row.ids)] = torch.tensor(row.topics)
    return Batch(ids, weights, topics)


def make_optimizers(model: LlamaForCausalLM, chooser: torch.nn.Linear, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms."""
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name]
    others: list[torch.nn.Parameter] = [
        weight for name, weight in model.named_parameters() if weight.ndim != 2 or "embed" in name
    ]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_rate, momentum=0.95, weight_decay=0.05),
        torch.optim.AdamW([*others, *chooser.parameters()], lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def rate_factor(step: int, recipe: Recipe) -> float:
    """A short warm-up, then a straight line down to two percent."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    return warm * max(0.02, 1 - step / recipe.steps)


def losses(model: LlamaForCausalLM, chooser: torch.nn.Linear, batch: Batch) -> tuple[Tensor, Tensor, float]:
    """The weighted loss of the tokens, the loss of the topics, and the share of topics that were right.

    `chooser` reads the topic from the hidden state where an answer begins. It is thrown away after training; without it
    the model learns all answers by heart long before it learns which one is asked for.
    """
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
    weights = batch.weights[:, 1:]
    places = weights > 0
    logits = model.lm_head(hidden[:, :-1][places])
    each = torch.nn.functional.cross_entropy(logits, batch.ids[:, 1:][places], reduction="none")
    tokens = (each * weights[places]).sum() / weights[places].sum()
    known = batch.topics != IGNORED
    if not known.any():
        return tokens, tokens.new_zeros(()), 0.0
    choices = chooser(hidden[known])
    wanted = batch.topics[known]
    right = (choices.argmax(-1) == wanted).float().mean().item()
    return tokens, torch.nn.functional.cross_entropy(choices, wanted), right


def train(corpus: Corpus, tokenizer: Tokenizer, recipe: Recipe) -> LlamaForCausalLM:
    """The trained model; prints losses as it goes."""
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    model = make_model(tokenizer, recipe.seed)
    chooser = torch.nn.Linear(model.config.hidden_size, len(corpus.topics))
    model.train()
    optimizers = make_optimizers(model, chooser, recipe)
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    progress = Progress()
    for step, batch in enumerate(islice(batches(corpus, tokenizer, recipe), recipe.steps)):
        tokens, topics, right = losses(model, chooser, batch)
        (tokens + TOPIC_WEIGHT * topics).backward()  # type: ignore[no-untyped-call] # torch has no type for it
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, base in zip(optimizers, rates, strict=True):
            for group, rate in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * rate_factor(step, recipe)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        progress.add(step + 1, batch.ids.numel(), tokens.item(), topics.item(), right)
    model.train(False)
    return model


class Progress:
    """Prints the mean figures of every fifty steps."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._seen = 0
        self._sums = [0.0, 0.0, 0.0]

    def add(self, step: int, seen: int, *figures: float) -> None:
        """Take in one step: ids seen, token loss, topic loss, share of right topics."""
        self._seen += seen
        self._sums = [total + figure for total, figure in zip(self._sums, figures, strict=True)]
        if step % 50 == 0:
            elapsed = time.monotonic() - self._started
            tokens, topics, right = (total / 50 for total in self._sums)
            speed = f"{elapsed:5.0f} s {self._seen / elapsed:6.0f} tokens/s"
            print(f"step {step:5} tokens {tokens:.4f} topics {topics:.4f} right {right:.1%} {speed}", flush=True)
            self._sums = [0.0, 0.0, 0.0]

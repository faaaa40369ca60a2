"""Trains the agent model on drawn turns, and writes it as GGUF; deterministic on one machine with fixed threads."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import gguf
import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from training.agent.dialogues import Drawer, Turn
from training.agent.template import CHAT_TEMPLATE, END, PAD, SPECIALS, THINK, THOUGHT
from training.guide.export import add_tensors

CONTEXT_LENGTH = 2048
VOCABULARY_SIZE = 1024
POOL = 512
SPLITTING = (  # llama.cpp's "qwen2": every digit alone
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
OTHER_WEIGHT = 0.05  # of tokens that the model does not write: they teach it to copy


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train; one step sees about `batch_tokens` tokens."""

    steps: int = 1100
    batch_tokens: int = 2560
    muon_rate: float = 0.02
    adam_rate: float = 4e-3
    warmup_steps: int = 30
    threads: int = 2
    seed: int = 7


class Renderer:
    """Renders turns with the model's own template: what stands before the answer, and the answer."""

    def __init__(self) -> None:
        environment = ImmutableSandboxedEnvironment()
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        self._template = environment.from_string(CHAT_TEMPLATE)

    def render(self, turn: Turn) -> tuple[str, str]:
        """Prompt and answer."""
        switches: dict[str, Any] = {} if turn.thinks else {"enable_thinking": False}
        prompt = self._template.render(messages=turn.messages, tools=turn.tools, add_generation_prompt=True, **switches)
        thought = f"{THINK}\n{turn.thought}\n{THOUGHT}\n\n" if turn.thinks else ""
        return prompt, f"{thought}{turn.answer}{END}"


def make_tokenizer(seed: int) -> Tokenizer:
    """Byte-level BPE in which every digit is a token of its own, so that numbers are copied digit by digit."""
    drawer, renderer = Drawer(seed), Renderer()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLITTING), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = ["".join(renderer.render(drawer.turn())) for _ in range(4000)]
    for special in SPECIALS:
        texts = [text.replace(special, "\n") for text in texts]
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def make_model(tokenizer: Tokenizer, seed: int) -> LlamaForCausalLM:
    """A fresh Llama; every row length divides by 32, as Q8_0 demands."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(PAD),
        initializer_range=0.04,
    )
    config._attn_implementation = "sdpa"
    return LlamaForCausalLM(config)


def batches(tokenizer: Tokenizer, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids [rows, length] and the weight of each as a target; rows of similar lengths together."""
    drawer, renderer, rng = Drawer(recipe.seed + 1), Renderer(), random.Random(recipe.seed)
    while True:
        rows: list[tuple[list[int], list[float]]] = []
        for _ in range(POOL):
            prompt, answer = renderer.render(drawer.turn())
            given, wanted = (tokenizer.encode(text, add_special_tokens=False).ids for text in (prompt, answer))
            rows.append((given + wanted, [OTHER_WEIGHT] * len(given) + [1.0] * len(wanted)))
        rows.sort(key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[float]]]] = [[]]
        for row in rows:
            if groups[-1] and (len(groups[-1]) + 1) * len(row[0]) > recipe.batch_tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from map(_padded, groups)


def _padded(rows: list[tuple[list[int], list[float]]]) -> tuple[Tensor, Tensor]:
    length = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    weights = torch.zeros(len(rows), length)
    for place, (row, row_weights) in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        weights[place, : len(row)] = torch.tensor(row_weights)
    return ids, weights


def train(tokenizer: Tokenizer, recipe: Recipe) -> LlamaForCausalLM:
    """The trained model; prints the loss as it goes."""
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    model = make_model(tokenizer, recipe.seed)
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim != 2 or "embed" in name]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=recipe.muon_rate, momentum=0.95, weight_decay=0.05),
        torch.optim.AdamW(others, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    started, total = time.monotonic(), 0.0
    for step, (ids, weights) in enumerate(islice(batches(tokenizer, recipe), recipe.steps)):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        wanted = weights[:, 1:].flatten()
        loss = (each * wanted).sum() / wanted.sum()
        loss.backward()  # type: ignore[no-untyped-call] # torch has no type for it
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        factor = min(1.0, (step + 1) / recipe.warmup_steps) * max(0.02, 1 - step / recipe.steps)
        for optimizer, base in zip(optimizers, rates, strict=True):
            for group, rate in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        total += loss.item()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}: loss {total / 50:.4f}, {time.monotonic() - started:.0f} s", flush=True)
            total = 0.0
    model.train(False)
    return model


def evaluate(model: LlamaForCausalLM, tokenizer: Tokenizer, count: int, seed: int = 99) -> float:
    """The share of freshly drawn turns whose greedy answer is right to the letter; prints some that are not."""
    drawer, renderer = Drawer(seed), Renderer()
    right, shown = 0, 0
    for _ in range(count):
        prompt, answer = renderer.render(drawer.turn())
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        with torch.no_grad():
            written = model.generate(torch.tensor([ids]), max_new_tokens=160, do_sample=False)[0, len(ids) :]
        text = tokenizer.decode(written.tolist(), skip_special_tokens=False)
        right += text == answer
        if text != answer and shown < 6:
            shown += 1
            print(f"  wanted {answer!r}\n  wrote  {text!r}")
    print(f"right to the letter: {right} of {count}")
    return right / count


def write_gguf(model: LlamaForCausalLM, tokenizer: Tokenizer, path: Path) -> None:
    """The llama.cpp form, matrices in Q8_0; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    config: Any = model.config
    writer = gguf.GGUFWriter(part, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("agent")
    writer.add_description("A tiny model that calls tools, made by a script for the tests.")
    writer.add_license("MIT")
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_tokenizer(writer, tokenizer)
    add_tensors(writer, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(path)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    bpe = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].__getitem__)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")  # splits as SPLITTING does
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in SPECIALS else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokens.index(END))
    writer.add_pad_token_id(tokens.index(PAD))
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)

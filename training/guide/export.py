"""Writes the trained model: SafeTensors source, GGUF file and manifest; every file appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from training.files import replace
from training.guide.tokenizer import CHAT_TEMPLATE, CONTEXT_LENGTH, END, PAD, START, save_tokenizer

DESCRIPTION = (
    "A small chat model of 1.5 million parameters, trained by the project's own scripts on its manual. It answers "
    "questions about this server in English and knows nothing else; use a real model for real work."
)
MANIFEST = """\
name: guide
version: "1"
runtime: llama_cpp
artifact: guide.gguf
task: text-generation
description: >-
  {description}
execution: {{executor: runner, threads: 1}}
options: {{context_length: {context_length}, parallel: 8, sampling: {{temperature: 0.2}}}}
tags: [built-in, chat, english, small]
capabilities: [chat, completion]
licence: MIT
digests: {{guide.gguf: "sha256:{digest}"}}
"""


def write_source(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """The Hugging Face form of the model, in float16, loadable by `AutoModelForCausalLM.from_pretrained`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: weight.detach().to(torch.float16).contiguous()
        for name, weight in model.state_dict().items()
        if name != "lm_head.weight"
    }
    part = folder / "model.safetensors.part"
    save_file(tensors, part, metadata={"format": "pt"})
    part.chmod(0o644)
    part.replace(folder / "model.safetensors")
    config = json.loads(model.config.to_json_string(use_diff=False))
    config |= {"architectures": ["LlamaForCausalLM"], "dtype": "float16"}
    config.pop("_name_or_path", None)
    replace(folder / "config.json", (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
    generation = {
        "eos_token_id": tokenizer.token_to_id(END),
        "pad_token_id": tokenizer.token_to_id(PAD),
        "do_sample": False,
    }
    replace(folder / "generation_config.json", (json.dumps(generation, indent=2) + "\n").encode())
    save_tokenizer(tokenizer, folder)


def write_gguf(model: LlamaForCausalLM, tokenizer: Tokenizer, path: Path) -> None:
    """The llama.cpp form, matrices in Q8_0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(part, "llama")
    config: Any = model.config
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("guide")
    writer.add_description(DESCRIPTION)
    writer.add_license("MIT")
    writer.add_size_label("1.5M")
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
    add_tokenizer(writer, tokenizer)
    add_tensors(writer, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(path)


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    """Vocabulary, merges, special tokens and chat template."""
    bpe = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].__getitem__)
    special = {PAD, START, END}
    types = [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokens.index(END))
    writer.add_pad_token_id(tokens.index(PAD))
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def add_tensors(writer: gguf.GGUFWriter, model: LlamaForCausalLM) -> None:
    """All weights under llama.cpp's names; the output layer is the embedding and is not stored twice."""
    heads = model.config.num_attention_heads
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    for source_name, weight in model.state_dict().items():
        if source_name == "lm_head.weight":
            continue
        array: NDArray[np.float32] = weight.detach().to(torch.float16).to(torch.float32).numpy()
        if source_name.endswith(("q_proj.weight", "k_proj.weight")):
            array = permute(array, heads)
        name = names.get_name(source_name, try_suffixes=(".weight",))
        if name is None:
            raise ValueError(f"no GGUF name for {source_name}")
        if array.ndim == 1:
            writer.add_tensor(name, array)
        else:
            data = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)


def permute(array: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Llama's query and key rows in llama.cpp's order: rotary pairs side by side instead of half a head apart."""
    rows, columns = array.shape
    return array.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_manifest(folder: Path) -> None:
    """`model.yaml` beside `guide.gguf`, with its digest."""
    digest = hashlib.sha256((folder / "guide.gguf").read_bytes()).hexdigest()
    text = MANIFEST.format(description=DESCRIPTION, context_length=CONTEXT_LENGTH, digest=digest)
    replace(folder / "model.yaml", text.encode())

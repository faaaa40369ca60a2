"""The one command that makes guide anew: `python -m training.guide`."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from training.guide.corpus import Corpus, load_corpus
from training.guide.dialogues import Drawer
from training.guide.evaluate import evaluate
from training.guide.export import write_gguf, write_manifest, write_source
from training.guide.tokenizer import train_tokenizer
from training.guide.train import Recipe, train

SOURCE = Path(__file__).parent / "source"
MODEL = Path(__file__).parents[2] / "inference_engine" / "infra" / "builtin_models" / "guide" / "1"


def make_tokenizer(corpus: Corpus, seed: int) -> Tokenizer:
    """A tokenizer trained on drawn conversations and on the manual."""
    drawer = Drawer(corpus, seed)
    questions = [message.text for _ in range(6000) for message in drawer.conversation() if message.role == "user"]
    answers = [topic.answer for topic in corpus.topics.values()] * 8
    return train_tokenizer([*questions, *answers, *corpus.manual, *corpus.manual])


def main() -> None:
    """Train, write and evaluate; `--evaluate` only evaluates what lies in `source/`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="training steps")
    parser.add_argument("--threads", type=int, default=Recipe.threads, help="torch threads")
    parser.add_argument("--source", type=Path, default=SOURCE, help="where the SafeTensors form goes")
    parser.add_argument("--model", type=Path, default=MODEL, help="where the GGUF form and the manifest go")
    parser.add_argument("--evaluate", action="store_true", help="only evaluate")
    arguments = parser.parse_args()
    corpus = load_corpus()
    print(f"{len(corpus.topics)} topics, {len(corpus.held_out_keys)} held-out questions")
    if not arguments.evaluate:
        recipe = replace(Recipe(), steps=arguments.steps, threads=arguments.threads)
        started = time.monotonic()
        tokenizer = make_tokenizer(corpus, recipe.seed + 3)
        model = train(corpus, tokenizer, recipe)
        print(f"trained {sum(p.numel() for p in model.parameters())} parameters in {time.monotonic() - started:.0f} s")
        write_source(model, tokenizer, arguments.source)
        write_gguf(model, tokenizer, arguments.model / "guide.gguf")
        write_manifest(arguments.model)
    evaluate(corpus, arguments.source)
    evaluate(corpus, arguments.source, temperature=0.7)


if __name__ == "__main__":
    main()

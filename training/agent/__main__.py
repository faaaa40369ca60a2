"""The one command that makes the agent model anew: `python -m training.agent`."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from training.agent.train import Recipe, evaluate, make_tokenizer, train, write_gguf

MODEL = Path(__file__).parents[2] / "tests" / "fixtures" / "agent" / "agent.gguf"


def main() -> None:
    """Train, write, and tell how many fresh turns are answered right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="training steps")
    parser.add_argument("--threads", type=int, default=Recipe.threads, help="torch threads")
    parser.add_argument("--model", type=Path, default=MODEL, help="where the GGUF file goes")
    arguments = parser.parse_args()
    recipe = replace(Recipe(), steps=arguments.steps, threads=arguments.threads)
    started = time.monotonic()
    tokenizer = make_tokenizer(recipe.seed + 3)
    model = train(tokenizer, recipe)
    print(f"trained {sum(p.numel() for p in model.parameters())} parameters in {time.monotonic() - started:.0f} s")
    write_gguf(model, tokenizer, arguments.model)
    evaluate(model, tokenizer, 100)


if __name__ == "__main__":
    main()

"""Compares the GGUF file in llama.cpp with its source in transformers: tokens and greedy answers."""

from __future__ import annotations

import argparse
import http.client
import json
import random
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import xllamacpp
from transformers import AutoTokenizer

from training.guide.corpus import Corpus, load_corpus
from training.guide.dialogues import Drawer
from training.guide.evaluate import Answerer, chat_of, nearest

FOLDER = Path(__file__).parent
MODEL = FOLDER.parents[1] / "inference_engine" / "infra" / "builtin_models" / "guide" / "1" / "guide.gguf"
ODD_TEXTS = (
    "", " ", "  two  spaces ", "\n\n\nlines\n", "tab\tand\r\nreturn", "na\u00efve caf\u00e9",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
    "\u4f60\u597d\uff0c\u4e16\u754c", "\u0645\u0631\u062d\u0628\u0627",
    "\U0001f642\U0001f680 emoji \U0001f469\u200d\U0001f469\u200d\U0001f467", "don't we'll I'M IT'S",
    "1234567890 3.14 1,000", "a_b-c/d\\e", "{'input': [[5.1,3.5]]}", "!!!???...", "\u00a0no-break\u00a0",
    "\u200bzero width", "\ufb01 ligature", "x" * 300, "e\u0301 combining", "\u00bd \u00b2 \u2167", "\x00\x01",
    "<|im_end|> as text <|im_start|>", "    indented code\n        more",
)  # fmt: skip


class LlamaServer:
    """The GGUF file in xllamacpp, in process, with its HTTP side on a unix socket."""

    def __init__(self, path: Path, folder: Path) -> None:
        self._socket = folder / "llama.sock"
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel = 2048 * 8, 8
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
        params.hostnames = [str(self._socket)]
        params.cache_ram_mib = 64
        params.warmup = False
        self._server = xllamacpp.Server(params)

    def answer(self, messages: Sequence[dict[str, str]], **options: Any) -> dict[str, Any]:
        """One chat answer; raises RuntimeError where llama.cpp reports an error."""
        found: list[dict[str, Any]] = []
        request = {"messages": list(messages), "temperature": 0.0, "max_tokens": 400, **options}
        self._server.handle_chat_completions(request, found.append)
        if not found or "choices" not in found[0]:
            raise RuntimeError(f"llama.cpp: {found}")
        return found[0]

    def text(self, messages: Sequence[dict[str, str]], **options: Any) -> str:
        """The text of one chat answer."""
        return str(self.answer(messages, **options)["choices"][0]["message"]["content"])

    def complete(self, prompt: str, tokens: int) -> str:
        """A greedy continuation of plain text."""
        found: list[dict[str, Any]] = []
        self._server.handle_completions({"prompt": prompt, "temperature": 0.0, "max_tokens": tokens}, found.append)
        return str(found[0]["choices"][0]["text"] if "choices" in found[0] else found[0]["content"])

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, special tokens read as such."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self._socket))
        body = json.dumps({"content": text, "add_special": False, "parse_special": True})
        connection.request("POST", "/tokenize", body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return [int(token) for token in answer["tokens"]]


def check_tokens(server: LlamaServer, source: Path, corpus: Corpus) -> None:
    """Print how many of 200 texts have the same tokens on both sides."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    drawer, rng = Drawer(corpus, 7), random.Random(7)
    texts = [*ODD_TEXTS]
    while len(texts) < 200:
        text = drawer.conversation()[-2].text if rng.random() < 0.6 else drawer.excerpt()
        texts.append(text + "".join(chr(rng.randrange(32, 0x2FFF)) for _ in range(rng.randrange(4))))
    differing = [text for text in texts if server.tokens(text) != tokenizer.encode(text, add_special_tokens=False)]
    print(f"tokens: {len(texts) - len(differing)} of {len(texts)} texts alike")
    for text in differing:
        print(f"  differs: {text[:80]!r}")


def check_answers(server: LlamaServer, source: Path, corpus: Corpus, count: int) -> None:
    """Print how many greedy answers are the same on both sides, word for word."""
    cases = [case for cases in corpus.held_out.values() for case in cases]
    chats = [chat_of(case, corpus) for case in cases[:: len(cases) // count]][:count]
    expected = Answerer(source).answers(chats)
    same = 0
    for chat, answer in zip(chats, expected, strict=True):
        other = server.text(chat)
        same += other.strip() == answer.strip()
        if other.strip() != answer.strip():
            print(f"  differs: {chat[-1]['content']!r}\n    transformers: {answer!r}\n    llama.cpp:    {other!r}")
    print(f"greedy answers: {same} of {len(chats)} alike")


def check_topics(server: LlamaServer, corpus: Corpus, temperature: float) -> None:
    """Print the share of held-out questions that the GGUF file answers with the right topic."""
    for name, cases in corpus.held_out.items():
        # Another seed for each question: one seed for all would take the same quantile for each first token.
        answers = [
            server.text(chat_of(case, corpus), temperature=temperature, seed=seed) for seed, case in enumerate(cases)
        ]
        right = sum(nearest(answer, corpus)[0] in case.topics for case, answer in zip(cases, answers, strict=True))
        print(f"GGUF, {name} at temperature {temperature}: right topic {right} of {len(cases)}")


def main() -> None:
    """Run all comparisons and print a few answers to look at."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=FOLDER / "source")
    parser.add_argument("--gguf", type=Path, default=MODEL)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    corpus = load_corpus()
    with tempfile.TemporaryDirectory() as folder:
        server = LlamaServer(arguments.gguf, Path(folder))
        check_tokens(server, arguments.source, corpus)
        check_answers(server, arguments.source, corpus, 20)
        for temperature in (0.0, 0.7):
            check_topics(server, corpus, temperature)
        for question in ("How do I load a model?", "hello", "What can you do?", "Who are you?", "What is iris?"):
            print(f"\n> {question}\n{server.text([{'role': 'user', 'content': question}])}")
        print(f"\n> (completion) The server\n{server.complete('The server', 60)}")
        long = "I have read the manual and would like to ask something. " * 110
        answer = server.answer([{"role": "user", "content": long + "What is a token?"}])
        print(
            f"\n> (a prompt of {answer['usage']['prompt_tokens']} tokens)\n{answer['choices'][0]['message']['content']}"
        )
        del server


if __name__ == "__main__":
    main()

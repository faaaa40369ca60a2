"""Reads the texts in `corpus/` into topics, patterns and manual pages; knows nothing of tokens or training.

A pattern such as `load (a|the|) model` stands for every sentence made by choosing one alternative per
bracket; `<city>` stands for any entry of the word list `city`.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CORPUS = Path(__file__).parent / "corpus"
HELD_OUT = ("held_out", "held_out_fresh")
SEPARATE_FILES = {
    "templates.yaml",
    "off_topic.yaml",
    "follow_ups.yaml",
    "systems.yaml",
    *(f"{n}.yaml" for n in HELD_OUT),
}
BRACKET = re.compile(r"\(([^()]*)\)")
PLACEHOLDER = re.compile(r"<([a-z_]+)>")


@dataclass(frozen=True)
class Topic:
    """One answer and the patterns of the questions that it answers.

    `do` holds verb phrases ("load a model"), `what` noun phrases ("a manifest"), `long` noun phrases asked for at
    length, `ask` whole questions. `more` names the topic that answers "tell me more".
    """

    id: str
    answer: str
    do: tuple[str, ...] = ()
    what: tuple[str, ...] = ()
    long: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    more: str = "no_more"
    weight: float = 1.0


@dataclass(frozen=True)
class FollowUp:
    """Questions that are understood only after one of the topics in `after`; `to` names the answer."""

    after: tuple[str, ...]
    ask: tuple[str, ...]
    to: str


@dataclass(frozen=True)
class HeldOut:
    """One evaluation dialogue: earlier questions with the topics that answered them, then the tested question."""

    question: str
    topics: tuple[str, ...]
    before: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Corpus:
    """Everything that training and evaluation read."""

    topics: dict[str, Topic]
    follow_ups: tuple[FollowUp, ...]
    templates: dict[str, tuple[str, ...]]
    words: dict[str, tuple[str, ...]]
    systems: tuple[str, ...]
    manual: tuple[str, ...]
    held_out: dict[str, tuple[HeldOut, ...]]
    held_out_keys: frozenset[str]


def key(question: str) -> str:
    """What remains of a question when case and punctuation are ignored; equal keys mean the same question."""
    return " ".join(re.findall(r"[a-z0-9]+", question.lower()))


def expand(pattern: str, rng: random.Random, words: dict[str, tuple[str, ...]]) -> str:
    """One random sentence of a pattern, single-spaced."""
    while match := BRACKET.search(pattern):
        choice = rng.choice(match.group(1).split("|"))
        pattern = pattern[: match.start()] + choice + pattern[match.end() :]
    while match := PLACEHOLDER.search(pattern):
        name = match.group(1)
        word = nonsense(rng) if name == "nonsense" else rng.choice(words[name])
        pattern = pattern[: match.start()] + word + pattern[match.end() :]
    return re.sub(r" ([,?!.])(?=\s|$)", r"\1", " ".join(pattern.split()))


def nonsense(rng: random.Random) -> str:
    """A word that does not exist, so that unknown words lead to the off-topic answer."""
    syllables = rng.randint(2, 4)
    return "".join(rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiouy") for _ in range(syllables)) + rng.choice(
        ["", "", "n", "r", "s", "t", "x"]
    )


def read(path: Path) -> Any:
    """The content of one YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def load_corpus() -> Corpus:
    """Read and check the whole corpus; a dangling topic name or a double id is an error."""
    topics: dict[str, Topic] = {}
    for path in sorted(CORPUS.glob("*.yaml")):
        if path.name in SEPARATE_FILES:
            continue
        for entry in read(path):
            topic = read_topic(entry)
            if topic.id in topics:
                raise ValueError(f"{path.name}: topic {topic.id} exists twice")
            topics[topic.id] = topic
    off_topic = read(CORPUS / "off_topic.yaml")
    topics["off_topic"] = Topic(**{**vars(topics["off_topic"]), "ask": tuple(off_topic["ask"])})
    held_out = {name: tuple(map(read_held_out, read(CORPUS / f"{name}.yaml"))) for name in HELD_OUT}
    corpus = Corpus(
        topics=topics,
        follow_ups=tuple(
            FollowUp(tuple(entry["after"]), tuple(entry["ask"]), entry["to"])
            for entry in read(CORPUS / "follow_ups.yaml")
        ),
        templates={name: tuple(lines) for name, lines in read(CORPUS / "templates.yaml").items()},
        words={name: tuple(map(str, words)) for name, words in off_topic["words"].items()},
        systems=tuple(read(CORPUS / "systems.yaml")),
        manual=read_manual(),
        held_out=held_out,
        held_out_keys=frozenset(key(case.question) for cases in held_out.values() for case in cases),
    )
    check(corpus)
    return corpus


def read_topic(entry: dict[str, Any]) -> Topic:
    """One topic from its YAML form."""
    lists = {name: tuple(map(str, entry.get(name, ()))) for name in ("do", "what", "long", "ask")}
    return Topic(
        id=entry["id"],
        answer=entry["answer"].strip(),
        more=entry.get("more", "no_more"),
        weight=float(entry.get("weight", 1)),
        **lists,
    )


def read_held_out(entry: dict[str, Any]) -> HeldOut:
    """One evaluation dialogue from its YAML form `{q, to: id or [ids], after: [[question, id], ...]}`."""
    to = entry["to"]
    before = tuple((question, topic) for question, topic in entry.get("after", ()))
    return HeldOut(str(entry["q"]), tuple([to] if isinstance(to, str) else to), before)


def read_manual() -> tuple[str, ...]:
    """The pages of the manual, one per first-level heading."""
    pages: list[str] = []
    for path in sorted((CORPUS / "manual").glob("*.md")):
        parts = re.split(r"(?m)^(?=# )", path.read_text(encoding="utf-8"))
        pages += [part.strip() for part in parts if part.strip()]
    return tuple(pages)


def check(corpus: Corpus) -> None:
    """Raise ValueError where a text names a topic that does not exist."""
    named = [topic.more for topic in corpus.topics.values()]
    for rule in corpus.follow_ups:
        named += [rule.to, *rule.after]
    for case in (case for cases in corpus.held_out.values() for case in cases):
        named += [*case.topics, *(topic for _, topic in case.before)]
    missing = sorted(set(named) - set(corpus.topics))
    if missing:
        raise ValueError(f"topics that do not exist: {missing}")

"""Draws training conversations from the corpus: phrasing, noise, follow-ups; deterministic for a given seed."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Literal

from training.guide.corpus import Corpus, Topic, expand, key

KEYS_NEARBY = {
    "a": "sq", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj", "i": "uo", "j": "hk",
    "k": "jl", "l": "k", "m": "n", "n": "bm", "o": "ip", "p": "o", "q": "wa", "r": "et", "s": "ad", "t": "ry",
    "u": "yi", "v": "cb", "w": "qe", "x": "zc", "y": "tu", "z": "x",
}  # fmt: skip
WEAK_WORDS = {"a", "an", "the", "do", "i", "is", "to", "of", "my", "it", "does", "in", "can", "you", "me", "are"}
SWAPS = {
    "server": ("inference server", "engine", "inference engine", "program", "system"),
    "console": ("web console", "web page", "web interface", "UI", "browser page"),
    "terminal": ("command line", "shell", "CLI"),
    "model": ("model", "models", "the model"),
    "folder": ("directory", "folder"),
    "explain": ("describe", "clarify", "illustrate"),
    "do": ("can", "should", "would", "could"),
    "change": ("set", "modify", "adjust", "alter", "edit"),
    "see": ("view", "look at", "inspect", "find", "watch", "look up"),
    "use": ("work with", "try", "employ", "apply"),
    "get": ("obtain", "receive", "fetch", "have", "gain"),
    "find": ("locate", "discover", "look for", "get"),
    "delete": ("erase", "wipe", "remove"),
    "need": ("require", "want", "have to have"),
    "large": ("big", "huge", "great"),
    "big": ("large", "huge"),
    "make": ("create", "build", "produce", "let"),
    "start": ("launch", "begin", "boot", "run"),
    "stop": ("end", "halt", "finish"),
    "run": ("execute", "launch", "start"),
    "check": ("verify", "test", "control", "examine", "know"),
    "put": ("place", "drop", "copy"),
    "send": ("post", "submit", "transmit"),
    "show": ("display", "present", "give"),
    "way": ("method", "procedure", "manner"),
    "happens": ("occurs", "goes on", "follows", "is done"),
    "mean": ("stand for", "say", "signify"),
    "possible": ("supported", "allowed", "permitted"),
    "supported": ("possible", "allowed", "available"),
    "several": ("many", "multiple", "a few", "ten", "some"),
    "command": ("instruction", "call", "command line"),
}


@dataclass(frozen=True)
class Message:
    """One message of a conversation; an assistant's message names the topic that it answers."""

    role: Literal["system", "user", "assistant"]
    text: str
    topic: str = ""


class Drawer:
    """Draws conversations and manual excerpts from one random stream."""

    def __init__(self, corpus: Corpus, seed: int) -> None:
        self._corpus = corpus
        self._rng = random.Random(seed)
        self._topics = [topic for topic in corpus.topics.values() if entries(topic)]
        self._weights = [topic.weight for topic in self._topics]

    def conversation(self, short: bool = False) -> list[Message]:
        """A conversation of one to twenty-four turns, most of them few; of one to three when `short`."""
        rng = self._rng
        shares = [86, 11, 3, 0, 0] if short else [60, 20, 12, 7, 1]
        turns = rng.choices([1, 2, 3, rng.randint(4, 8), rng.randint(9, 24)], shares)[0]
        messages: list[Message] = []
        if rng.random() < 0.25:
            messages.append(Message("system", rng.choice(self._corpus.systems)))
        last: Topic | None = None
        for _ in range(turns):
            question, last = self.turn(last)
            messages += [Message("user", question), Message("assistant", last.answer, last.id)]
        return messages

    def turn(self, last: Topic | None) -> tuple[str, Topic]:
        """A question, never one of the held-out ones, and the topic that answers it after `last`."""
        while True:
            question, topic = self._follow_up(last) if last and self._rng.random() < 0.45 else self._fresh(last)
            if key(question) not in self._corpus.held_out_keys:
                return self.noisy(question), topic

    def _fresh(self, last: Topic | None) -> tuple[str, Topic]:
        topic = self._rng.choices(self._topics, self._weights)[0]
        question = self.ask(topic)
        if last is not None and self._rng.random() < 0.2:
            lead_in = self._expand(self._rng.choice(self._corpus.templates["lead_in"]))
            question = f"{lead_in} {lower_first(question)}"
        return question, topic

    def _follow_up(self, last: Topic | None) -> tuple[str, Topic]:
        assert last is not None
        rules = [rule for rule in self._corpus.follow_ups if last.id in rule.after]
        if rules and self._rng.random() < 0.6:
            rule = self._rng.choice(rules)
            return self._expand(self._rng.choice(rule.ask)), self._corpus.topics[rule.to]
        if self._rng.random() < 0.3:
            return self._expand(self._rng.choice(self._corpus.templates["more"])), self._corpus.topics[last.more]
        if self._rng.random() < 0.4:
            topic = self._corpus.topics[self._rng.choice(["thanks", "bye"])]
            return self.ask(topic), topic
        return self._fresh(last)

    def ask(self, topic: Topic) -> str:
        """One phrasing of a topic's question."""
        kind, pattern = self._rng.choice(entries(topic))
        text = self._expand(pattern)
        if kind != "ask":
            text = self._expand(self._rng.choice(self._corpus.templates[kind])).replace("{}", text)
        if self._rng.random() < 0.12:
            text = self._expand(self._rng.choice(self._corpus.templates["wrap"])).replace("{}", text)
        return text

    def noisy(self, text: str) -> str:
        """The question as people type it: case, question mark, lost words, other words, typing errors."""
        rng = self._rng
        if rng.random() < 0.2:
            text = self._swap(text)
        if rng.random() < 0.1:
            text = " ".join(word for word in text.split() if word not in WEAK_WORDS or rng.random() < 0.5) or text
        if rng.random() < 0.12:
            text = self._typo(text)
        style = rng.random()
        if style < 0.5:
            text = text[:1].upper() + text[1:]
        elif style < 0.8:
            text = text.lower()
        elif style < 0.82:
            text = text.upper()
        if text[-1:].isalnum():
            text += rng.choices(["?", "", ".", "!", "??"], [45, 40, 8, 4, 3])[0]
        return text

    def _swap(self, text: str) -> str:
        words = text.split()
        places = [place for place, word in enumerate(words) if word in SWAPS]
        if places:
            place = self._rng.choice(places)
            words[place] = self._rng.choice(SWAPS[words[place]])
        return " ".join(words)

    def _typo(self, text: str) -> str:
        rng = self._rng
        places = [place for place, letter in enumerate(text) if letter.isalpha()]
        if len(places) < 5:
            return text
        at = rng.choice(places)
        kind = rng.randrange(4)
        if kind == 0:
            return text[:at] + text[at + 1 :]
        if kind == 1:
            return text[:at] + text[at] + text[at:]
        if kind == 2:
            return text[:at] + rng.choice(KEYS_NEARBY.get(text[at].lower(), "e")) + text[at + 1 :]
        return text[:at] + text[at + 1 : at + 2] + text[at] + text[at + 2 :]

    def excerpt(self) -> str:
        """Plain text of the manual, from the beginning of a page or of a sentence to the end of the page."""
        rng = self._rng
        if rng.random() < 0.3:
            page = rng.choice(list(self._corpus.topics.values())).answer
        else:
            page = rng.choice(self._corpus.manual)
        starts = [match.end() for match in re.finditer(r"[.:]\s+(?=[A-Z])|\n\n", page)]
        if starts and rng.random() < 0.5:
            page = page[rng.choice(starts) :]
        return page

    def _expand(self, pattern: str) -> str:
        return expand(pattern, self._rng, self._corpus.words)


def entries(topic: Topic) -> list[tuple[str, str]]:
    """All patterns of a topic with their kinds; phrases count twice, for they meet many templates."""
    phrases = [(kind, pattern) for kind in ("do", "what", "long") for pattern in getattr(topic, kind)]
    return phrases * 2 + [("ask", pattern) for pattern in topic.ask]


def lower_first(text: str) -> str:
    """The text with a small first letter, unless its first word is "I" or an abbreviation."""
    return text if text[:2] in {"I ", "I'"} or text[1:2].isupper() else text[:1].lower() + text[1:]

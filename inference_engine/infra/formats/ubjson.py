"""Checks that UBJSON data is whole, for libraries that crash when it is not. Builds no values; knows no model.

https://ubjson.org, in the draft with typed arrays (`[$type#count`) that XGBoost writes: numbers are big-endian.
"""

from __future__ import annotations

_SIZES = {"i": 1, "U": 1, "C": 1, "I": 2, "l": 4, "d": 4, "L": 8, "D": 8, "T": 0, "F": 0, "Z": 0, "N": 0}
_LENGTHS = {"i": 1, "U": 1, "I": 2, "l": 4, "L": 8}
_DEEPEST = 64


class BrokenUbjson(ValueError):
    """The data ends early or is no UBJSON; the text says where."""


def check_ubjson(content: bytes) -> None:
    """Walk over one whole value. Quick: typed arrays are stepped over.

    Raises:
        BrokenUbjson: it ends early, holds an unknown type, or something follows it.
    """
    walker = _Walker(content)
    walker.value(walker.marker(), 0)
    if walker.at != len(content):
        raise BrokenUbjson(f"something follows the end at byte {walker.at}")


class _Walker:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self.at = 0

    def _take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self._content):
            raise BrokenUbjson(f"it ends early: byte {self.at} is followed by less than {count} bytes")
        self.at += count
        return self._content[self.at - count : self.at]

    def _skip(self, count: int) -> None:
        if count < 0 or self.at + count > len(self._content):
            raise BrokenUbjson(f"it ends early: byte {self.at} is followed by less than {count} bytes")
        self.at += count

    def marker(self) -> str:
        return self._take(1).decode("latin-1")

    def _peek(self) -> str:
        found = self.marker()
        self.at -= 1
        return found

    def _length(self) -> int:
        kind = self.marker()
        if kind not in _LENGTHS:
            raise BrokenUbjson(f"byte {self.at - 1} should be a length and is {kind!r}")
        return int.from_bytes(self._take(_LENGTHS[kind]), "big", signed=kind != "U")

    def value(self, kind: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise BrokenUbjson(f"it is nested more than {_DEEPEST} deep")
        if kind in _SIZES:
            self._skip(_SIZES[kind])
        elif kind in ("S", "H"):
            self._skip(self._length())
        elif kind in ("[", "{"):
            self._container(kind, depth)
        else:
            raise BrokenUbjson(f"byte {self.at - 1} should be a type and is {kind!r}")

    def _container(self, kind: str, depth: int) -> None:
        typed = ""
        if self._peek() == "$":
            self._skip(1)
            typed = self.marker()
        if self._peek() == "#":
            self._skip(1)
            self._counted(kind, typed, self._length(), depth)
            return
        if typed:
            raise BrokenUbjson(f"byte {self.at} should be the count of a typed container")
        end = "]" if kind == "[" else "}"
        while self._peek() != end:
            self._item(kind, "", depth)
        self._skip(1)

    def _counted(self, kind: str, typed: str, count: int, depth: int) -> None:
        if kind == "[" and typed in _SIZES:
            self._skip(_SIZES[typed] * count)
            return
        if count < 0 or count > len(self._content) - self.at:
            raise BrokenUbjson(f"a container at byte {self.at} says that it holds {count} items")
        for _ in range(count):
            self._item(kind, typed, depth)

    def _item(self, kind: str, typed: str, depth: int) -> None:
        if kind == "{":
            self._skip(self._length())
        self.value(typed or self.marker(), depth + 1)

"""Reads the fields of one `config.pbtxt`; what is wrong with one is raised with its line. Knows no field by name."""

from __future__ import annotations

from pathlib import Path

from inference_engine.domain.errors import InvalidManifest
from inference_engine.infra.formats.prototext import Field, Message, Word

DTYPES = {
    "TYPE_BOOL": "bool",
    "TYPE_STRING": "bytes",
    **{f"TYPE_FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"TYPE_{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
}


class Fields:
    """The fields of one file, which lies in `folder`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.folder = file.parent

    def fail(self, line: int, problem: str) -> InvalidManifest:
        return InvalidManifest(f"{self._file}:{line}: {problem}")

    def one(self, message: Message, name: str) -> Field | None:
        """The last field of that name, as protobuf has it."""
        return next((field for field in reversed(message.fields) if field.name == name), None)

    def text(self, message: Message, name: str) -> str:
        field = self.one(message, name)
        if field is None:
            return ""
        if not isinstance(field.value, str) or isinstance(field.value, Word):
            raise self.fail(field.line, f"{name} must be a text in quotes")
        return field.value

    def number(self, message: Message, name: str, default: int = 0) -> int:
        field = self.one(message, name)
        if field is None:
            return default
        if type(field.value) is not int or field.value < 0:
            raise self.fail(field.line, f"{name} must be a whole number from 0")
        return field.value

    def flag(self, message: Message, name: str) -> bool:
        field = self.one(message, name)
        if field is None:
            return False
        if field.value not in ("true", "false", "True", "False", 1, 0):
            raise self.fail(field.line, f"{name} must be true or false")
        return field.value in ("true", "True", 1)

    def messages(self, message: Message, name: str) -> list[Message]:
        found = []
        for field in message.fields:
            if field.name == name:
                if not isinstance(field.value, Message):
                    raise self.fail(field.line, f"{name} must be a message: {name} {{ ... }}")
                found.append(field.value)
        return found

    def known(self, message: Message, where: str, *names: str) -> None:
        for field in message.fields:
            if field.name not in names:
                raise self.fail(field.line, f"{where}.{field.name} is not known here: leave it out")

    def dims(self, tensor: Message, where: str) -> tuple[int, ...]:
        dims = []
        for field in tensor.fields:
            if field.name == "dims":
                if type(field.value) is not int or field.value < -1:
                    raise self.fail(field.line, f"{where}: dims are numbers, -1 for any size")
                dims.append(field.value)
        return tuple(dims)

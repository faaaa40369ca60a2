"""Anthropic's turns of content blocks as the domain's messages, and the rules they must keep. Knows no service.

Consecutive messages of one role are one turn. A turn of the user may hold tool results, which become messages of
their own; each answers a tool use of the turn before, and each tool use is answered.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from inference_engine.adapters.http.anthropic import wire
from inference_engine.adapters.http.anthropic.wire import BLOCKS, Block, InputMessage
from inference_engine.adapters.http.decoding import convert, shown
from inference_engine.domain.errors import InvalidRequest, UnknownField
from inference_engine.domain.requests import ImagePart, Message, Part, TextPart, ToolCall

PARAGRAPH = "\n\n"
BILLING = "x-anthropic-billing-header:"
"""How a system block begins that Anthropic's own tools add for accounting; it differs in every request."""
IMAGES: dict[str, tuple[bytes, ...]] = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
}
"""The media types taken, and how such files begin."""
_ALLOWED: dict[str, tuple[type[Block], ...]] = {
    "user": (wire.TextBlock, wire.ImageBlock, wire.DocumentBlock, wire.ToolResultBlock),
    "assistant": (wire.TextBlock, wire.ThinkingBlock, wire.ToolUseBlock),
    "system": (wire.TextBlock,),
}
_IN_RESULT = (wire.TextBlock, wire.ImageBlock, wire.DocumentBlock)


class _Placed(NamedTuple):
    """A block and where the request holds it."""

    block: Block
    place: str


class _Turn(NamedTuple):
    role: str
    blocks: list[_Placed]
    place: str


def conversation(system: str | list[wire.TextBlock] | None, messages: list[InputMessage]) -> tuple[Message, ...]:
    """The whole conversation.

    Raises:
        InvalidRequest: the turns break a rule, or a block is damaged. UnknownField: a block is not supported.
    """
    turns = _turns(messages)
    found = _system(system)
    open_calls: list[str] = []
    for turn in turns:
        results = [placed for placed in turn.blocks if isinstance(placed.block, wire.ToolResultBlock)]
        _check_results(turn, results, open_calls)
        open_calls = [placed.block.id for placed in turn.blocks if isinstance(placed.block, wire.ToolUseBlock)]
        found += _messages(turn)
    if turns[-1].role == "assistant":
        raise InvalidRequest(
            "the last message is the assistant's: an answer cannot be begun for the model here, end with the user's",
            param=turns[-1].place,
        )
    return tuple(found)


def _system(system: str | list[wire.TextBlock] | None) -> list[Message]:
    texts = [system] if isinstance(system, str) else [block.text for block in system or ()]
    text = PARAGRAPH.join([text for text in texts if text and not text.startswith(BILLING)])
    return [Message("system", text)] if text else []


def _turns(messages: list[InputMessage]) -> list[_Turn]:
    if not messages:
        raise InvalidRequest("messages is empty: send at least one message", param="messages")
    turns: list[_Turn] = []
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        blocks = _blocks(
            message.content, f"{place}.content", _ALLOWED[message.role], f"a message of the {message.role}"
        )
        if turns and turns[-1].role == message.role:
            turns[-1].blocks.extend(blocks)
        else:
            turns.append(_Turn(message.role, blocks, place))
    first = next((turn for turn in turns if turn.role != "system"), None)
    if first is None or first.role != "user":
        raise InvalidRequest("the first message must be the user's", param="messages[0].role")
    return turns


def _blocks(
    content: str | list[dict[str, Any]], place: str, allowed: tuple[type[Block], ...], where: str
) -> list[_Placed]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not content:
        raise InvalidRequest(f"{place} is empty: send at least one block", param=place)
    return [_block(given, f"{place}[{index}]", allowed, where) for index, given in enumerate(content)]


def _block(given: dict[str, Any], place: str, allowed: tuple[type[Block], ...], where: str) -> _Placed:
    kind = given.get("type")
    known = BLOCKS.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise UnknownField(
            f"{place} is of type {shown(kind)}, which is not supported here; supported are {', '.join(BLOCKS)}",
            param=f"{place}.type",
        )
    if known not in allowed:
        raise InvalidRequest(f"{place} is of type {kind}, which {where} cannot hold", param=f"{place}.type")
    block: Block = convert(given, known, place)
    if isinstance(block, wire.TextBlock) and not block.text:
        raise InvalidRequest(f"{place}.text is empty: leave the block out", param=f"{place}.text")
    return _Placed(block, place)


# -- the rules of tools --------------------------------------------------------------------------------------------


def _check_results(turn: _Turn, results: list[_Placed], open_calls: list[str]) -> None:
    answered: set[str] = set()
    for block, place in results:
        assert isinstance(block, wire.ToolResultBlock)
        if block.tool_use_id not in open_calls or block.tool_use_id in answered:
            raise InvalidRequest(
                f"{place}.tool_use_id {shown(block.tool_use_id)} names no open tool_use of the message before",
                param=f"{place}.tool_use_id",
            )
        answered.add(block.tool_use_id)
    missing = [call for call in open_calls if call not in answered]
    if missing:
        raise InvalidRequest(
            f"{turn.place} must begin with a tool_result for each tool_use of the message before; "
            f"{', '.join(map(shown, missing))} has none",
            param=turn.place,
        )
    if any(not isinstance(placed.block, wire.ToolResultBlock) for placed in turn.blocks[: len(results)]):
        raise InvalidRequest(f"{turn.place}: tool_result blocks come before all others", param=turn.place)


# -- turns to messages ---------------------------------------------------------------------------------------------


def _messages(turn: _Turn) -> list[Message]:
    if turn.role == "assistant":
        return [_assistant(turn.blocks)]
    if turn.role == "system":
        return [
            Message(
                "system", PARAGRAPH.join([p.block.text for p in turn.blocks if isinstance(p.block, wire.TextBlock)])
            )
        ]
    found = [_result(p.block, p.place) for p in turn.blocks if isinstance(p.block, wire.ToolResultBlock)]
    others = [placed for placed in turn.blocks if not isinstance(placed.block, wire.ToolResultBlock)]
    if others:
        found.append(Message("user", _content(others)))
    return found


def _assistant(blocks: list[_Placed]) -> Message:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for block, _ in blocks:
        if isinstance(block, wire.TextBlock):
            texts.append(block.text)
        elif isinstance(block, wire.ThinkingBlock):
            thoughts.append(block.thinking)
        elif isinstance(block, wire.ToolUseBlock):
            calls.append(ToolCall(block.id, block.name, msgspec.json.encode(block.input).decode()))
    return Message(
        "assistant", "".join(texts), tool_calls=tuple(calls), reasoning=PARAGRAPH.join(filter(None, thoughts))
    )


def _result(block: wire.ToolResultBlock, place: str) -> Message:
    content: str | tuple[Part, ...] = ""
    if isinstance(block.content, str):
        content = block.content
    elif block.content:
        content = _content(_blocks(block.content, f"{place}.content", _IN_RESULT, "a tool_result"))
    if block.is_error:
        failed = "The tool failed: "
        content = failed + content if isinstance(content, str) else (TextPart(failed), *content)
    return Message("tool", content, tool_call_id=block.tool_use_id)


def _content(blocks: Iterable[_Placed]) -> str | tuple[Part, ...]:
    """Text alone as one string, else parts in their order."""
    parts = [_part(block, place) for block, place in blocks]
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    return PARAGRAPH.join(texts) if len(texts) == len(parts) else tuple(parts)


def _part(block: Block, place: str) -> Part:
    if isinstance(block, wire.ImageBlock):
        if block.transformations:
            field = f"{place}.transformations"
            raise UnknownField(f"{field} are not supported: leave them out", param=field)
        return _image(block.source, f"{place}.source")
    if isinstance(block, wire.DocumentBlock):
        return TextPart(_document(block, place))
    assert isinstance(block, wire.TextBlock)
    return TextPart(block.text)


def _image(source: wire.Source, place: str) -> ImagePart:
    if source.type != "base64":
        raise UnknownField(
            f"{place} is of type {shown(source.type)}, but nothing is fetched here: send the image as base64",
            param=f"{place}.type",
        )
    begins = IMAGES.get(source.media_type)
    if begins is None:
        raise InvalidRequest(
            f"{place}.media_type is {shown(source.media_type)}, it must be one of {', '.join(IMAGES)}",
            param=f"{place}.media_type",
        )
    try:
        data = b64decode(source.data, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"{place}.data is not valid base64", param=f"{place}.data") from None
    if not data.startswith(begins):
        raise InvalidRequest(f"{place}.data is not an {source.media_type} file", param=f"{place}.data")
    return ImagePart(data, source.media_type)


def _document(block: wire.DocumentBlock, place: str) -> str:
    source = block.source
    if block.citations is not None and block.citations.enabled:
        raise UnknownField(f"{place}.citations are not supported: leave them out", param=f"{place}.citations")
    if source.type != "text" or source.media_type not in ("", "text/plain"):
        raise UnknownField(
            f"{place}.source is of type {shown(source.type)} ({shown(source.media_type)}): documents are taken as "
            "plain text here, of source type text",
            param=f"{place}.source.type",
        )
    head = f"<title>{block.title}</title>\n" if block.title else ""
    head += f"<context>{block.context}</context>\n" if block.context else ""
    return f"<document>\n{head}{source.data}\n</document>"

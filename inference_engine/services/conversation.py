"""Puts what a model's manifest says of every conversation into a request. Knows no runtime."""

from __future__ import annotations

import msgspec

from inference_engine.domain.model import Conversation
from inference_engine.domain.requests import Chat, Generate, Message, Sampling, Transcribe


def opened(request: Generate, conversation: Conversation) -> Generate:
    """The request with the manifest's system message, first messages, stop strings, longest answer and adapter.

    What the request says itself stays. Transcriptions are no conversations.
    """
    if conversation == Conversation() or isinstance(request, Transcribe):
        return request
    request = msgspec.structs.replace(
        request,
        sampling=_sampling(request.sampling, conversation),
        adapter=request.adapter or conversation.adapter,
    )
    if isinstance(request, Chat):
        return msgspec.structs.replace(request, messages=_messages(request.messages, conversation))
    return request


def _sampling(sampling: Sampling, conversation: Conversation) -> Sampling:
    limit = conversation.max_tokens if sampling.max_tokens is None else sampling.max_tokens
    return msgspec.structs.replace(sampling, stop=sampling.stop or conversation.stop, max_tokens=limit)


def _messages(messages: tuple[Message, ...], conversation: Conversation) -> tuple[Message, ...]:
    first = tuple(Message(turn.role, turn.content) for turn in conversation.messages)
    own = messages[0].role == "system" if messages else False
    if own:
        return messages[:1] + tuple(turn for turn in first if turn.role != "system") + messages[1:]
    if conversation.system:
        first = (Message("system", conversation.system), *(turn for turn in first if turn.role != "system"))
    return first + messages

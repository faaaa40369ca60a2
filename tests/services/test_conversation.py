"""What a manifest says of every conversation, and what requests say themselves."""

from __future__ import annotations

from inference_engine.domain.model import Conversation, Turn
from inference_engine.domain.requests import Call, Chat, Complete, Message, Principal, Sampling, Transcribe
from inference_engine.services.conversation import opened
from inference_engine.services.inference import InferenceService
from inference_engine.services.models import ModelService
from inference_engine.testing import FakeClock, FakeExecutor, FakeRepository, FakeRoutes, NullTelemetry, manifest

PIRATE = Conversation(
    system="Arr.",
    messages=(Turn("user", "hi"), Turn("assistant", "ahoy")),
    stop=("END",),
    max_tokens=7,
    adapter="parrot",
)
ASKED = Message("user", "where?")


def texts(chat: object) -> list[str]:
    assert isinstance(chat, Chat)
    return [message.text for message in chat.messages]


def test_a_chat_begins_as_the_manifest_says() -> None:
    chat = opened(Chat((ASKED,)), PIRATE)
    assert texts(chat) == ["Arr.", "hi", "ahoy", "where?"]
    assert isinstance(chat, Chat)
    assert chat.messages[0].role == "system"
    assert (chat.sampling.stop, chat.sampling.max_tokens, chat.adapter) == (("END",), 7, "parrot")


def test_what_the_request_says_stays() -> None:
    own = Chat((Message("system", "Be kind."), ASKED), Sampling(stop=("X",), max_tokens=3), adapter="crow")
    chat = opened(own, PIRATE)
    assert texts(chat) == ["Be kind.", "hi", "ahoy", "where?"]
    assert isinstance(chat, Chat)
    assert (chat.sampling, chat.adapter) == (own.sampling, "crow")


def test_a_text_gets_no_messages_and_a_recording_nothing() -> None:
    assert opened(Complete("where?"), PIRATE) == Complete(
        "where?", Sampling(stop=("END",), max_tokens=7), adapter="parrot"
    )
    assert opened(Transcribe(b""), PIRATE) == Transcribe(b"")
    assert opened(Chat((ASKED,)), Conversation()) == Chat((ASKED,))


async def test_every_way_to_the_model_starts_so() -> None:
    executor = FakeExecutor(kinds=("chat",))
    said = Conversation(system="Arr.", max_tokens=2)
    models = ModelService(
        FakeRepository(manifest("pirate", conversation=said)),
        lambda stored: executor,
        FakeRoutes(),
        NullTelemetry(),
        FakeClock(),
    )
    await models.open()
    inference = InferenceService(models, NullTelemetry(), FakeClock())
    call = Call("1", Principal("default", "local"))
    generation = await inference.generate("pirate", Chat((ASKED,)), call)
    assert len([delta async for delta in generation.deltas]) == 3
    assert texts(executor.requests[0]) == ["Arr.", "where?"]
    await models.close()

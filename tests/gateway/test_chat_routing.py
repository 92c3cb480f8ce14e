"""Conversations through the real door."""

from __future__ import annotations

from deltafleet.v1 import routing_pb2
from support.fleet import Fleet

SQL = "Which products cost more than 20 dollars? Write the SQL query."
TRANSLATION = "Translate into Spanish: the dog sleeps in the garden and the cat in the house"
FOLLOW_UPS = ["and the ten cheapest?", "sorted by name", "now the same for March"]


def conversation(*turns: str) -> list[dict[str, object]]:
    """The user's turns, each but the last answered."""
    user, assistant = routing_pb2.ROLE_USER, routing_pb2.ROLE_ASSISTANT
    messages: list[dict[str, object]] = []
    for turn in turns:
        messages += [{"role": user, "content": turn}, {"role": assistant, "content": "Here it is."}]
    return messages[:-1]


async def decide(fleet: Fleet, *turns: str) -> routing_pb2.Decision:
    request = routing_pb2.RouteRequest(messages=conversation(*turns))
    return (await fleet.routing.Route(request)).decision


async def test_follow_ups_stay_with_the_specialist(fleet: Fleet) -> None:
    for count in range(1, len(FOLLOW_UPS) + 1):
        found = await decide(fleet, SQL, *FOLLOW_UPS[:count])
        assert found.model == "sql", found
        assert found.task == "sql"
        assert "user turn 1" in found.explanation
    assert (await decide(fleet, FOLLOW_UPS[-1])).model == "base"  # alone it is nobody's


async def test_another_task_changes_the_specialist(fleet: Fleet) -> None:
    assert (await decide(fleet, SQL, FOLLOW_UPS[0], TRANSLATION)).model == "translation"
    assert (await decide(fleet, SQL, TRANSLATION, FOLLOW_UPS[0], SQL)).model == "sql"


async def test_what_the_model_said_decides_nothing(fleet: Fleet) -> None:
    messages = conversation(SQL, FOLLOW_UPS[0])
    messages[1]["content"] = TRANSLATION
    found = await fleet.routing.Route(routing_pb2.RouteRequest(messages=messages))
    assert found.decision.model == "sql"


async def test_a_conversation_of_the_greatest_length_is_decided(fleet: Fleet) -> None:
    found = await decide(fleet, *[SQL] * 128)
    assert found.model == "sql"
    assert "of the 16" not in found.explanation  # the last turn spoke for itself

"""What can be asked for: models, embeddings, health."""

from __future__ import annotations

import base64

import numpy as np
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deltafleet.v1 import fleet_pb2
from gateway.routing.encoder_files import kept
from gateway.routing.onnx_encoder import OnnxEncoder
from support.fleet import Fleet
from support.http_door import CHAT, raw_of, user

TEXTS = ["What is 37 plus 45?", "Größe", "The sea " * 25]


async def test_models_are_the_fleets_and_auto(
    open_fleet: Fleet, client: openai.AsyncOpenAI
) -> None:
    theirs = await open_fleet.models.ListModels(fleet_pb2.ListModelsRequest())
    listed = (await client.models.list()).data

    assert [one.id for one in listed] == ["auto", *(one.name for one in theirs.models)]
    assert {one.owned_by for one in listed} == {"deltafleet"}
    assert listed[1].model_extra["deltafleet"]["description"] == theirs.models[0].description
    assert (await client.models.retrieve("sql")).id == "sql"
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.models.retrieve("gpt-4o")
    assert unknown.value.code == "model_not_found"


async def test_embeddings_are_the_encoders(client: openai.AsyncOpenAI) -> None:
    encoder = OnnxEncoder(kept(None))
    rows = encoder.encode(TEXTS)
    # The client asks for base64 by itself, and decodes it.
    made = await client.embeddings.create(model="routing-encoder", input=TEXTS)
    plain = await client.embeddings.create(
        model="routing-encoder", input=TEXTS[0], encoding_format="float"
    )
    packed = await client.embeddings.create(
        model="routing-encoder", input=TEXTS[0], encoding_format="base64"
    )

    assert np.array_equal(np.array([one.embedding for one in made.data], np.float32), rows)
    assert [one.index for one in made.data] == [0, 1, 2]
    assert np.array_equal(np.array(plain.data[0].embedding, np.float32), rows[0])
    packed_row = np.frombuffer(base64.b64decode(packed.data[0].embedding), "<f4")
    assert np.array_equal(packed_row, rows[0])
    assert made.usage.total_tokens == sum(len(encoder.tokens(text)) for text in TEXTS)


@pytest.mark.parametrize(
    ("fields", "kind", "place"),
    [
        ({"input": "word " * 90}, "context_length_exceeded", None),
        ({"input": "w" * 100_000}, "context_length_exceeded", None),
        ({"input": []}, "invalid_parameter", "input"),
        ({"input": [[1, 2]]}, "invalid_parameter", "input[0]"),
        ({"input": ""}, "invalid_parameter", "input[0]"),
        ({"input": "a", "dimensions": 7}, "invalid_parameter", "dimensions"),
    ],
)
async def test_embeddings_that_are_not_made(
    client: openai.AsyncOpenAI, fields: dict[str, object], kind: str, place: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.embeddings.create(model="routing-encoder", **fields)
    assert (caught.value.code, caught.value.param) == (kind, place)


async def test_embeddings_of_another_model(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.embeddings.create(model="text-embedding-3-small", input="a")


async def test_health_and_metrics(open_fleet: Fleet, client: openai.AsyncOpenAI) -> None:
    await client.chat.completions.create(model="auto", messages=user("What is 3 plus 4?"))
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="none", messages=user("a"))
    async with raw_of(open_fleet) as http:
        for path in ("/health", "/health/live", "/health/ready"):
            assert (await http.get(path)).status_code == 200
        await http.get("/nowhere")
        page = (await http.get(f"http://{open_fleet.metrics}/metrics")).text
    counted = {
        (sample.labels["path"], sample.labels["status"], sample.labels["reason"])
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "deltafleet_http_requests_total" and sample.value
    }

    assert counted >= {
        (CHAT, "200", ""),
        (CHAT, "404", "unknown_model"),
        ("/health/ready", "200", ""),
        ("/health/live", "200", ""),
        ("other", "404", ""),
    }

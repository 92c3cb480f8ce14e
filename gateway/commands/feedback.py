"""deltafleet feedback."""

from __future__ import annotations

import click
import grpc

from deltafleet.v1 import routing_pb2, routing_pb2_grpc
from gateway.commands.connection import call, server_option


@click.command(epilog="Example: deltafleet feedback 0f8fad5b-d9cb-469f-a165-70867728950e 0.5")
@server_option
@click.option("--model", default="", help="The model that answered, to have it checked.")
@click.argument("request_id")
@click.argument("score", type=click.FloatRange(0, 1))
def feedback(server: str, model: str, request_id: str, score: float) -> None:
    """Say how good an answer was: SCORE is 0 for useless to 1 for as good as can be.

    REQUEST_ID is told by `deltafleet ask --json`.
    """
    request = routing_pb2.RecordFeedbackRequest(request_id=request_id, score=score, model=model)

    async def record(channel: grpc.aio.Channel) -> routing_pb2.RecordFeedbackResponse:
        stub = routing_pb2_grpc.RoutingServiceStub(channel)
        response: routing_pb2.RecordFeedbackResponse = await stub.RecordFeedback(request)
        return response

    found = call(server, record)
    click.echo(f"{found.model}: {score:g}{', in place of an earlier score' * found.replaced}")

"""The closed API as the fallback: a local OpenAI-compatible endpoint that asks the demo fleet."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
import yaml
from grpc import StatusCode

from deltafleet.v1 import inference_pb2, inference_pb2_grpc, routing_pb2
from support.fleet import DEMO, Fleet, refusal, running_fleet

OUT_OF_SCOPE = "Which glaciers of Patagonia calve into a lake?"


class Endpoint(BaseHTTPRequestHandler):
    """POST /v1/chat/completions, streamed, answered by the base of a running fleet."""

    fleet_address = ""
    is_broken = False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.is_broken:
            self.send_error(503)
            return
        answer = self._answer(body)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for part in answer.text:
            self._event({"choices": [{"index": 0, "delta": {"content": part}}]})
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        summary = answer.summary
        usage = {
            "prompt_tokens": summary.prompt_token_count,
            "completion_tokens": summary.output_token_count,
            "total_tokens": summary.prompt_token_count + summary.output_token_count,
        }
        self._event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _answer(self, body: dict[str, object]) -> inference_pb2.GenerateResponse:
        with grpc.insecure_channel(self.fleet_address) as channel:
            return inference_pb2_grpc.InferenceServiceStub(channel).Generate(
                inference_pb2.GenerateRequest(
                    prompt=body["messages"][-1]["content"],
                    model="base",
                    max_output_token_count=body["max_completion_tokens"],
                )
            )

    def _event(self, content: dict[str, object]) -> None:
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        self.wfile.write(f"data: {json.dumps(chunk | content)}\n\n".encode())

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def endpoint(fleet_address: str, *, is_broken: bool = False) -> Iterator[str]:
    """A running endpoint. Yields its base URL."""
    settings = {"fleet_address": fleet_address, "is_broken": is_broken}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Endpoint,), settings))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def with_closed_api(directory: Path, url: str) -> Path:
    """The demo's fleet.yaml, falling back to the closed API."""
    document = yaml.safe_load(DEMO.read_text())
    document["base"]["path"] = str(DEMO.parent / "base")
    for name, specialist in document["specialists"].items():
        specialist["delta"] = str(DEMO.parent / f"{name}.delta")
        specialist["examples_file"] = str(DEMO.parent / "routing" / f"{name}.txt")
    document["routing"]["fallback"] = "closed-api"
    document["closed_api"] = {"base_url": url, "model": "m", "price": "openai/gpt-5-mini"}
    path = directory / "fleet.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("is_broken", [False, True], ids=["answering", "broken"])
async def test_what_is_out_of_scope_goes_to_the_closed_api(
    fleet: Fleet, tmp_path: Path, is_broken: bool
) -> None:
    with endpoint(fleet.address, is_broken=is_broken) as url:
        async with running_fleet(tmp_path, with_closed_api(tmp_path, url)) as escalating:
            asked = escalating.ask(OUT_OF_SCOPE, max_output_token_count=8)
            if is_broken:
                failure = await refusal(asked)
                assert failure.code is StatusCode.UNAVAILABLE
                assert failure.reason == "ERROR_REASON_CLOSED_API_FAILED"
                return
            answer = await asked
            expected = await fleet.ask(OUT_OF_SCOPE, model="base", max_output_token_count=8)

    assert answer.decision.model == "closed-api"
    assert answer.decision.kind == routing_pb2.MODEL_KIND_CLOSED_API
    assert answer.decision.reason == routing_pb2.ROUTE_REASON_OUT_OF_SCOPE
    assert answer.text == expected.text
    used = answer.summary
    assert used.finish_reason == inference_pb2.FINISH_REASON_LENGTH
    assert used.cost_nano_usd == 250 * used.prompt_token_count + 2000 * used.output_token_count

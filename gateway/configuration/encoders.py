"""Encoders that configurations share: the same files and threads are loaded once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.encoder import BatchedEncoder
from gateway.routing.encoder_files import digest_of
from gateway.routing.head import BadRouter
from gateway.routing.onnx_encoder import OnnxEncoder
from gateway.settings import Routing
from model_pool.settings import SettingsError


@dataclass(slots=True)
class _Shared:
    encoder: BatchedEncoder
    user_count: int = 0


class Encoders:
    """Each runs for as long as a configuration uses it."""

    def __init__(self) -> None:
        self._shared: dict[tuple[str, int, int], _Shared] = {}

    async def take(self, directory: Path, routing: Routing) -> BatchedEncoder:
        """The running encoder of a directory; `give_back` it. Raises SettingsError."""
        try:
            key = _key(directory, routing)
            shared = self._shared.get(key) or await self._start(directory, routing)
        except BadRouter as error:
            raise SettingsError(f"routing: {error}") from error
        self._shared[key] = shared
        shared.user_count += 1
        return shared.encoder

    async def give_back(self, encoder: BatchedEncoder) -> None:
        """Stop it where nobody else uses it."""
        key, shared = next(one for one in self._shared.items() if one[1].encoder is encoder)
        shared.user_count -= 1
        if not shared.user_count:
            del self._shared[key]
            await encoder.stop()

    async def _start(self, directory: Path, routing: Routing) -> _Shared:
        encoder = BatchedEncoder(
            lambda: OnnxEncoder(directory, routing.encoder_thread_count),
            cache_count=routing.encoder_cache_count,
        )
        try:
            await encoder.start()
        except BaseException:
            await encoder.stop()
            raise
        return _Shared(encoder)


def _key(directory: Path, routing: Routing) -> tuple[str, int, int]:
    return digest_of(directory), routing.encoder_thread_count, routing.encoder_cache_count

"""Fixtures of the engine tests. `engine_kind` names the implementations under contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from engine.asking import Fleet, StartEngine
from engine.tiny_models import (
    CONTEXT_TOKEN_COUNT,
    architectures,
    train_tokenizer,
    write_checkpoint,
    write_variant,
)

from merge_on_load import pack
from model_pool.engine import Engine, Weights
from model_pool.transformers_engine import TransformersEngine


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    root = tmp_path_factory.mktemp("fleet")
    vocab_size = len(train_tokenizer())
    base = write_checkpoint(root / "base", architectures(vocab_size)["llama"])
    variant = write_variant(base, root / "variant", seed=1)
    weights = {"base": Weights("base", "digest-of-base")}
    for name, seed in (("sql", 1), ("chat", 2)):
        tuned = variant if seed == 1 else write_variant(base, root / name, seed=seed)
        pack(base, tuned, "lossless", root / f"{name}.delta")
        weights[name] = Weights(name, f"digest-of-{name}", root / f"{name}.delta")
    pack(base, variant, "lossless", root / "corrupt.delta")
    payload = max((root / "corrupt.delta").rglob("*.*"), key=lambda path: path.stat().st_size)
    content = bytearray(payload.read_bytes())
    content[len(content) // 2] ^= 1
    payload.write_bytes(content)
    corrupt = Weights("sql", "digest-of-corrupt", root / "corrupt.delta")
    return Fleet(base, variant, weights, corrupt)


@pytest.fixture(params=["transformers"])
def engine_kind(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


@pytest.fixture
def start_engine(engine_kind: str, fleet: Fleet) -> StartEngine:
    """`async with start_engine(**options) as engine`: started, with the base loaded."""
    makers: dict[str, Callable[..., Engine]] = {"transformers": TransformersEngine}

    @asynccontextmanager
    async def started(**options: Any) -> AsyncIterator[Engine]:
        options = {"context_token_count": CONTEXT_TOKEN_COUNT, "thread_count": 1, **options}
        engine = makers[engine_kind](fleet.base, **options)
        await engine.start()
        try:
            await engine.load(fleet.weights["base"])
            yield engine
        finally:
            await engine.stop()

    return started

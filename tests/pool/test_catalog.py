"""What the catalog reads from a fleet's files: deltas and LoRA adapters, sound and unsound."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from engine.tiny_models import architectures, train_tokenizer, write_checkpoint, write_variant

from merge_on_load import Lora, pack
from model_pool.catalog import Catalog, read_catalog
from model_pool.engine import Weights
from model_pool.errors import SpecialistUnloadable
from model_pool.settings import PoolSettings
from support.adapters import write_adapter


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a delta, adapters of rank 2 and 6, and what must not be served."""
    root = tmp_path_factory.mktemp("fleet")
    config = architectures(len(train_tokenizer()))["llama"]
    base = write_checkpoint(root / "base", config)
    pack(base, write_variant(base, root / "tuned", seed=1), "lossless", root / "sql.delta")
    write_adapter(base, root / "law.lora", r=2)
    write_adapter(base, root / "code.lora", rank_pattern={"down_proj": 6})
    write_adapter(base, root / "magnitudes.lora", r=64, use_dora=True)
    config.update({"intermediate_size": 100})
    write_adapter(write_checkpoint(root / "other", config), root / "misfit.lora", r=32)
    return root


def catalog_of(root: Path, *names: str) -> Catalog:
    specialists = {
        name.partition(".")[0]: {"description": "d", "delta": root / name, "examples": ["e"]}
        for name in names
    }
    document = {"base": {"path": root / "base"}, "specialists": specialists}
    return read_catalog(PoolSettings.model_validate(document))


def test_a_delta_on_a_delta_is_described_with_what_it_builds_on(root: Path) -> None:
    further = write_variant(root / "tuned", root / "further", seed=2)
    parent = root / "sql.delta"
    chained = pack(root / "base", further, "int8", root / "sqlite.delta", parent=parent)

    _, sqlite = catalog_of(root, "sqlite.delta").models()

    assert (sqlite.codec, sqlite.fault) == ("int8", "")
    assert sqlite.stored_size_bytes == chained.size_bytes
    assert sqlite.weights == Weights("sqlite", chained.digest, chained.path)
    told = json.loads(sqlite.lineage)
    assert told["model_name"] == "further"
    assert told["parents"][0]["is"]["name"] == "sql.delta"


def test_a_delta_on_one_that_went_away_is_kept_with_its_fault(root: Path) -> None:
    parent = pack(root / "base", root / "tuned", "int8", root / "gone.delta")
    pack(root / "base", root / "tuned", "lossless", root / "orphan.delta", parent=parent.path)
    shutil.rmtree(parent.path)

    catalog = catalog_of(root, "orphan.delta", "law.lora")

    with pytest.raises(SpecialistUnloadable, match=r"orphan\.delta builds on .* not here"):
        catalog.weights("orphan")
    assert catalog.weights("law").lora


def test_an_adapter_is_described_as_a_delta_is(root: Path) -> None:
    catalog = catalog_of(root, "sql.delta", "law.lora")
    base, sql, law = catalog.models()

    lora = Lora.open(root / "law.lora")
    assert (base.codec, sql.codec, law.codec) == ("base", "lossless", "lora")
    assert law.weights == Weights("law", lora.digest, lora=root / "law.lora")
    assert sql.weights.lora is None
    assert law.stored_size_bytes == lora.size_bytes
    assert law.full_size_bytes == sql.full_size_bytes == base.stored_size_bytes
    assert json.loads(law.lineage)["base_model_name_or_path"] == str(root / "base")
    assert catalog.weights("law") is law.weights


@pytest.mark.parametrize(
    ("name", "word"), [("magnitudes", "use_dora"), ("misfit", r"down_proj\.weight")]
)
def test_an_adapter_that_cannot_be_served_is_kept_with_its_fault(
    root: Path, name: str, word: str
) -> None:
    catalog = catalog_of(root, "law.lora", f"{name}.lora")

    with pytest.raises(SpecialistUnloadable, match=word):
        catalog.weights(name)
    assert catalog.weights("law").lora


def test_ranks_are_counted_over_the_adapters_that_can_be_served(root: Path) -> None:
    sound = catalog_of(root, "law.lora", "code.lora", "sql.delta")
    unsound = catalog_of(root, "law.lora", "misfit.lora", "magnitudes.lora")
    without = catalog_of(root, "sql.delta")

    assert (sound.lora_count, sound.lora_rank) == (2, 6)
    assert (unsound.lora_count, unsound.lora_rank) == (1, 2)
    assert (without.lora_count, without.lora_rank) == (0, 0)

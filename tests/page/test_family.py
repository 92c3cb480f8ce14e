"""What was made from what, out of lineages that may be anybody's."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from deltafleet.v1 import fleet_pb2
from gateway.page.family import Kin, family

NAMES = {"base": "base", "sql.delta": "sql", "triage.delta": "triage"}


def model(name: str, codec: str, lineage: object = None) -> fleet_pb2.Model:
    return fleet_pb2.Model(name=name, codec=codec, lineage=json.dumps(lineage))


def test_a_delta_comes_from_the_base() -> None:
    models = [model("base", "base"), model("sql", "int8"), model("chat", "lora"), model("gpt", "")]
    assert family(models, NAMES) == [Kin("base", "sql", "int8"), Kin("base", "chat", "lora")]


def test_a_delta_of_any_codec_comes_from_the_base() -> None:
    assert family([model("sql", "sparse"), model("chat", "auto", {"made_by": "us"})], NAMES) == [
        Kin("base", "sql", "sparse"),
        Kin("base", "chat", "auto"),
    ]


def test_a_delta_on_a_delta_comes_from_that_one() -> None:
    sql = {"name": "sql.delta", "parents": [{"is": {"name": "base"}}]}
    other = {"name": "other.delta", "method": "int8", "parents": [{"is": {"name": "base"}}]}
    models = [
        model("sql", "lossless"),
        model("sqlite", "int4", {"method": "int4", "parents": [{"is": sql}]}),
        model("law", "onebit", {"method": "onebit", "parents": [{"is": other}]}),
    ]

    assert family(models, NAMES) == [
        Kin("base", "sql", "lossless"),
        Kin("sql", "sqlite", "int4"),
        Kin("other.delta", "law", "onebit"),
        Kin("base", "other.delta", "int8"),
    ]


def test_a_recipe_comes_from_what_its_lineage_names() -> None:
    strange = {"name": "their-7b", "kind": "merge", "method": "slerp", "parents": [
        {"is": {"name": "llama", "kind": "checkpoint"}},
    ]}  # fmt: skip
    told = {
        "name": "both.yaml",
        "kind": "merge",
        "method": "ties",
        "parents": [
            {"role": "base", "is": {"name": "base"}},
            {"is": {"name": "sql.delta", "kind": "delta", "parents": [{"is": {"name": "base"}}]}},
            {"is": strange},
        ],
    }
    found = family(
        [model("base", "base"), model("sql", "int8"), model("both", "recipe", told)], NAMES
    )

    assert found == [
        Kin("base", "sql", "int8"),
        Kin("base", "both", "ties"),
        Kin("sql", "both", "ties"),
        Kin("their-7b", "both", "ties"),
        Kin("llama", "their-7b", "slerp"),
    ]


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["parents", "is", "name", "named", "method"]), inner, max_size=4
        )
    ),
)


@given(JSON)
def test_any_lineage_is_read_or_passed_over(lineage: object) -> None:
    for one in family([model("a", "recipe", lineage)], NAMES):
        assert one.parent != one.child


def test_a_lineage_without_end_is_cut() -> None:
    told: dict[str, object] = {"name": "0"}
    for number in range(1, 200):
        told = {"name": str(number), "parents": [{"is": told}]}
    assert len(family([model("a", "recipe", told)], NAMES)) < 50
    assert family([fleet_pb2.Model(name="a", codec="recipe", lineage="[" * 100_000)], NAMES) == []

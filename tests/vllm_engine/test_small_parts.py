"""The parts of the vLLM engine that need no vLLM: the options, errors as text, answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engine.tiny_models import architectures, write_checkpoint
from pydantic import ValidationError

from merge_on_load import errors
from merge_on_load.errors import CorruptPayload, MergeError
from model_pool.capacity import DeltaSizes, Tier
from model_pool.engine import FinishReason, Sampling
from model_pool.errors import EngineFailed
from model_pool.vllm import faults, plugin
from model_pool.vllm.answer import AnswerProgress
from model_pool.vllm.meter import Computed
from model_pool.vllm.options import Needs, VllmOptions
from model_pool.vllm.room import divide_card


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"max_modle_len": 5}, "max_modle_len"),
        ({"quantization": "fp8"}, "quantization fp8"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization"),
        ({"dtype": "int8"}, "dtype"),
    ],
)
def test_options_that_are_not_understood_are_refused_by_name(
    wrong: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValidationError, match=named):
        VllmOptions(**wrong)


def test_options_reach_vllm_under_their_own_names() -> None:
    options = VllmOptions(dtype="bfloat16", speculative_config={"method": "ngram"})
    arguments = options.engine_arguments(Path("base"), running_count=7, context_token_count=512)

    assert arguments["dtype"] == "bfloat16"
    assert arguments["speculative_config"] == {"method": "ngram"}
    assert arguments["max_model_len"] == 512
    assert arguments["max_num_seqs"] == 7
    assert "block_size" not in arguments


def test_a_fleet_with_adapters_asks_vllm_for_room_for_them() -> None:
    def arguments(**options: Any) -> dict[str, Any]:
        return VllmOptions(**options).engine_arguments(
            Path("base"),
            running_count=7,
            context_token_count=None,
            needs=Needs(lora_count=20, lora_rank=12),
        )

    chosen = arguments()
    assert chosen["enable_lora"]
    assert chosen["max_lora_rank"] == 16  # vLLM takes some ranks only
    assert chosen["max_loras"] < chosen["max_cpu_loras"] == 20
    assert arguments(max_loras=3)["max_loras"] == 3


@pytest.mark.parametrize(("memory_gib", "count"), [(1, 0), (2, 1), (3, 4)])
def test_a_card_keeps_the_deltas_that_fit_in_its_share(
    tmp_path: Path, memory_gib: int, count: int
) -> None:
    base = write_checkpoint(tmp_path / "base", architectures(100)["llama"])
    found = divide_card(
        base,
        [DeltaSizes(f"delta-{n}", 300 << 20, 1 << 20) for n in range(4)],
        memory_bytes=memory_gib << 30,
        share=0.9,
        item_bytes=2,
        context_token_count=128,
    )

    assert len(found.held[Tier.CARD]) == count
    if count:
        assert found.cache_bytes > 0
        assert found.card_used_bytes <= 0.9 * (memory_gib << 30)


@pytest.mark.parametrize(
    "kind",
    [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, MergeError)],
)
def test_a_merge_error_survives_the_way_between_processes(kind: type[MergeError]) -> None:
    error = kind('it\'s "so"', file="a/b", tensor="t.weight", expected=(1, 2), found=None)
    text = f"Worker failed with error '{faults.to_text(error)}', see [above]"
    found = faults.from_text(text)

    assert type(found) is kind
    assert str(found) == str(error)
    assert (found.file, found.tensor) == ("a/b", "t.weight")


def test_other_errors_are_not_merge_errors() -> None:
    assert faults.from_text(str(CorruptPayload("file was altered"))) is None


def test_asking_for_tiles_is_harmless() -> None:
    plugin.ask_for_amx_tiles()


def output_of(*versions: str, finish_reason: str = "stop") -> Any:
    """What vLLM says at the end of an answer that these weights made."""
    completion = SimpleNamespace(
        token_ids=[1, 2],
        finish_reason=finish_reason,
        weight_versions=[SimpleNamespace(version=version) for version in versions],
    )
    return SimpleNamespace(outputs=[completion], finished=True, num_cached_tokens=None)


def an_answer(**sampling: Any) -> AnswerProgress:
    """By the weights "a", after a prompt of four tokens; each token is a letter."""
    sampling = {"max_output_token_count": 10, **sampling}
    return AnswerProgress("a", [0] * 4, Sampling(**sampling), as_text)


def as_text(token_ids: Sequence[int]) -> str:
    return "".join(map(chr, token_ids))


def step_of(*letters: str, cached_count: int = 0) -> Any:
    """What vLLM says after a step that does not end the answer."""
    completion = SimpleNamespace(token_ids=[ord(letter) for letter in letters])
    return SimpleNamespace(outputs=[completion], finished=False, num_cached_tokens=cached_count)


def test_an_answer_goes_on_from_where_it_was_broken_off() -> None:
    answer = an_answer(stop=("xyz",))
    first = step_of("a", "x", cached_count=1)
    assert answer.begin_turn() == [0] * 4
    assert answer.computed(first) == Computed(4 - 1, 1)  # one token comes out of the prompt
    piece = answer.accept(first, 0.5)
    assert piece is not None
    assert piece.text == "a"  # the x may begin the stop text

    assert answer.begin_turn() == [0] * 4 + [ord("a"), ord("x")]
    assert answer.left_count == 8
    last = step_of("y", "z", cached_count=5)
    assert answer.computed(last) == Computed(6 - 5, 1)
    piece = answer.accept(last, 0.75)
    assert piece is not None
    assert (piece.text, piece.finish_reason) == ("", FinishReason.STOP)
    assert (piece.usage.prompt_token_count, piece.usage.output_token_count) == (4, 4)


def test_the_token_that_ends_an_answer_is_no_text() -> None:
    piece = an_answer().accept(output_of("a"), busy_s=0.5)
    assert piece is not None
    assert (piece.text, piece.finish_reason) == (chr(1), FinishReason.STOP)
    piece = an_answer().accept(output_of("a", finish_reason="length"), busy_s=0.5)
    assert piece is not None
    assert (piece.text, piece.finish_reason) == (chr(1) + chr(2), FinishReason.LENGTH)


def test_an_answer_that_two_weights_made_is_a_failure() -> None:

    for versions in (("b",), ("a", "b")):
        with pytest.raises(EngineFailed, match="'b'"):
            an_answer().accept(output_of(*versions), busy_s=0.5)


def test_an_answer_that_vllm_broke_off_is_a_failure() -> None:
    with pytest.raises(EngineFailed, match="abort"):
        an_answer().accept(output_of("a", finish_reason="abort"), busy_s=0.5)


def told_of(*log_probabilities: float) -> Any:
    """What vLLM tells of the tokens "a", "b", "c", ... of one step, and of a likelier one each."""
    letters = [ord("a") + place for place in range(len(log_probabilities))]
    rows = [
        {token_id: SimpleNamespace(logprob=value), 1: SimpleNamespace(logprob=-0.1)}
        for token_id, value in zip(letters, log_probabilities, strict=True)
    ]
    completion = SimpleNamespace(token_ids=letters, logprobs=rows)
    return SimpleNamespace(outputs=[completion], finished=False, num_cached_tokens=0)


@pytest.mark.parametrize(
    ("stop", "told", "expected"),
    [
        ("b", (-1.0, -2.0, -30.0), -1.5),
        ("bc", (-1.0, -2.0, -3.0), -2.0),
        ("b", (-1.0, -math.inf, -30.0), None),
        ("a", (0.0, -2.0), 0.0),
        ("a", (1e-7, -2.0), 0.0),
    ],
)
def test_what_lies_behind_a_stop_text_is_not_weighed(
    stop: str, told: tuple[float, ...], expected: float | None
) -> None:
    sampling = Sampling(max_output_token_count=10, stop=(stop,))
    answer = AnswerProgress("a", [0], sampling, as_text, wants_log_probability=True)
    piece = answer.accept(told_of(*told), busy_s=0.5)
    assert piece is not None
    assert piece.mean_log_probability == expected


def test_a_token_of_which_nothing_is_told_leaves_the_mean_unknown() -> None:
    sampling = Sampling(max_output_token_count=10, stop=("b",))
    answer = AnswerProgress("a", [0], sampling, as_text, wants_log_probability=True)
    output = told_of(-1.0, -1.0)
    output.outputs[0].logprobs.pop()
    piece = answer.accept(output, busy_s=0.5)
    assert piece is not None
    assert (piece.finish_reason, piece.mean_log_probability) == (FinishReason.STOP, None)

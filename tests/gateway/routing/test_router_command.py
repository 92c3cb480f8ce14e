"""deltafleet router: fit, eval, predict, on real embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.__main__ import main
from gateway.routing.gloss import Gloss
from gateway.routing.reading import read_text

COLOURS = ["red", "green", "blue", "yellow", "violet", "orange", "brown", "white", "black", "pink"]
FORMS = {
    "paint": ["What should I mix to get {} paint for a wall?", "Which brush for {} paint?"],
    "bake": ["How long must a cake with {} icing stay in the oven?", "Bake a {} cake for me."],
    "out_of_scope": ["Who owned the {} house in the eighteenth century?", "Where is the {} sea?"],
}
PROMPTS = {
    task: [form.format(one) for form in forms for one in COLOURS] for task, forms in FORMS.items()
}


def write_labelled(path: Path, prompts: dict[str, list[str]]) -> Path:
    lines = [{"text": text, "task": task} for task, texts in prompts.items() for text in texts]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["router", *map(str, arguments)])


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fitted to PROMPTS."""
    home = tmp_path_factory.mktemp("router")
    labelled = write_labelled(home / "labelled.jsonl", PROMPTS)
    done = run("fit", labelled, "--out", home / "router")
    assert done.exit_code == 0, done.output
    return home / "router"


def test_prompts_that_it_has_not_seen(router: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    texts = ["How do I mix turquoise paint?", "My cake is still raw inside, how long to bake it?"]
    texts.append("Which queen owned a castle in the eighteenth century?")
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

    done = run("predict", router, file)

    told = [json.loads(line) for line in done.output.splitlines()]
    assert [one["task"] for one in told] == ["paint", "bake", "out_of_scope"]
    assert [one["in_scope"] for one in told] == [True, True, False]
    for one in told:
        assert 0 < one["probability"] <= 1
        assert one["runner_up"] != one["task"]
        assert one["decision_us"] > 0


def test_the_same_text_has_the_same_decision(router: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    odd = ["", " ", "\0\x01\x02", "a\u2028b\x85c", "🎂" * 3, "word " * 5000, "मिठाई", "\ud7ff\n\n"]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in odd]
    lines = 2 * [*lines, '{"text": "half of a pair: \\ud800"}']
    file.write_text("\n".join(lines))

    done = run("predict", router, file)

    assert done.exit_code == 0, done.output
    told = [json.loads(line) for line in done.output.splitlines()]
    for one in told:
        del one["decision_us"]
    half = len(odd) + 1
    assert len(told) == 2 * half
    assert told[:half] == told[half:]


@pytest.mark.parametrize("filling", ["lorem ipsum dolor ", "翻译", "x"])
def test_of_a_long_text_the_beginning_and_the_end_are_read(filling: str) -> None:
    read, _ = read_text(f"Bake a cake. {filling * 20_000} Paint the wall.", Gloss())

    assert read.startswith("Bake ")
    assert "Paint" in read[-20:]
    assert len(read) < 40_000


def test_eval_measures(router: Path, tmp_path: Path) -> None:
    unseen = {
        "paint": ["Which brush suits violet paint?", "How many coats of grey paint?"],
        "bake": ["At what heat do I bake a chocolate cake?"],
        "out_of_scope": ["Who was the owner of the red castle in that century?"],
    }
    done = run("eval", router, write_labelled(tmp_path / "unseen.jsonl", unseen), "--json")

    told = json.loads(done.output)
    assert told["count"] == 4
    assert told["accuracy"] == 1
    assert told["auroc"] == 1
    assert sum(one["count"] for one in told["reliability"]) == 4


def test_eval_refuses_tasks_that_the_router_does_not_know(router: Path, tmp_path: Path) -> None:
    done = run("eval", router, write_labelled(tmp_path / "x.jsonl", {"sing": ["la la", "lo"]}))

    assert done.exit_code == 1
    assert "does not know: ['sing']" in done.output


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"text": "a", "task": "b"}\n{"text": "a"}\n', "line 2: not"),
        ('{"text": 1, "task": "b"}\n', "line 1: text and task must be strings"),
        ("", "no labelled prompts"),
        ('{"text": "a", "task": "b"}\n', "at least two tasks"),
        ('{"text": "a", "task": "b"}\n{"text": "a", "task": "c"}\n', "has 1 prompt"),
        ('["text"]\n', "line 1: not"),
        ('{"text": "a", "task": ""}\n', "line 1: the task is empty"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "labelled.jsonl").write_text(content)

    done = run("fit", tmp_path / "labelled.jsonl", "--out", tmp_path / "router")

    assert done.exit_code == 1
    assert told in done.output
    assert not (tmp_path / "router").exists()


def test_an_encoder_that_is_not_there(tmp_path: Path) -> None:
    labelled = write_labelled(tmp_path / "labelled.jsonl", PROMPTS)
    done = run("fit", labelled, "--out", tmp_path / "router", "--encoder", tmp_path / "none")

    assert done.exit_code == 1
    assert "cannot be exported" in done.output
    assert not (tmp_path / "router").exists()


def test_what_is_no_text_is_refused(tmp_path: Path, router: Path) -> None:
    (tmp_path / "prompts.jsonl").write_bytes(b'{"text": "\xff"}')

    done = run("predict", router, tmp_path / "prompts.jsonl")

    assert done.exit_code == 1
    assert "not UTF-8 at byte 10" in done.output


def test_what_is_no_router_is_refused(tmp_path: Path, router: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"text": "a"}\n')
    broken = tmp_path / "router"
    broken.mkdir()
    for content in ("", "{}", json.dumps({"format": "deltafleet.router 0"})):
        (broken / "router.json").write_text(content)
        (broken / "heads.safetensors").write_bytes((router / "heads.safetensors").read_bytes())
        done = run("predict", broken, tmp_path / "prompts.jsonl")
        assert done.exit_code == 1
        assert str(broken) in done.output


def test_an_existing_directory_is_not_overwritten(router: Path) -> None:
    before = (router / "router.json").read_bytes()
    done = run("fit", router.parent / "labelled.jsonl", "--out", router)

    assert done.exit_code == 1
    assert (router / "router.json").read_bytes() == before

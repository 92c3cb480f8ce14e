"""Languages told apart, and their words turned into English ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.gloss import Gloss
from support.fleet import REPO

GLOSS = Gloss()
LANGUAGES = ("ar", "de", "es", "fr", "hi", "id", "it", "ja", "ko", "nl", "pl", "pt", "ru", "tr")


def test_there_is_a_list_for_each_language() -> None:
    assert set(GLOSS.languages) == {*LANGUAGES, "vi", "zh"}


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        (
            "es",
            "Escribe una consulta que muestre los clientes",
            ("write", "query", "customers"),
        ),
        ("fr", "Quels sont les symptômes du diabète ?", ("what", "symptoms", "diabetes")),
        ("de", "Übersetze den folgenden Satz ins Französische", ("translate", "sentence")),
        ("pt", "Resuma o texto abaixo em duas frases", ("summarize", "text", "two")),
        ("it", "Scrivi una poesia sul mare e sulla luna", ("write", "poem", "sea", "moon")),
        ("nl", "Schrijf een functie die de grootste getallen sorteert", ("write", "function")),
        ("pl", "Napisz wiersz o jesieni i o deszczu", ("write", "poem", "rain")),
        (
            "ru",
            "Напиши функцию на Python для сортировки",
            ("write", "function", "Python"),
        ),
        ("tr", "Aşağıdaki metni özetle ve ana fikirleri yaz", ("summarize", "write")),
        ("ar", "ما هي أعراض مرض السكري وما علاجه؟", ("symptoms",)),
        ("hi", "मधुमेह के लक्षण क्या हैं?", ("diabetes", "symptoms")),
        ("zh", "请把下面的句子翻译成法语", ("translate", "sentence", "French")),
        ("ja", "次の文章を要約してください", ("summarize",)),
        ("ko", "다음 문장을 프랑스어로 번역해 주세요", ("sentence", "French", "translate")),
        ("vi", "Hãy dịch câu sau sang tiếng Pháp", ("translate", "French")),
        ("id", "Tuliskan kueri SQL untuk menampilkan semua pelanggan", ("write", "SQL")),
    ],
)
def test_a_request_of_each_language(language: str, text: str, words: tuple[str, ...]) -> None:
    assert GLOSS.language(text) == language
    glossed = GLOSS.english(text)
    for word in words:
        assert word in glossed.split(), glossed


@pytest.mark.parametrize(
    "text",
    [
        "Write a Python function that reverses a list.",
        "SELECT name FROM employees WHERE salary > 5000",
        "Translate into French: the boys are playing in the garden",
        "Which of the following sentences is German? Das Haus ist alt. / The house is old.",
        "What does 'c'est la vie' mean in English?",
        "x^2 + 3x - 4 = 0",
        "hi",
        "",
    ],
)
def test_english_stays_as_it_is(text: str) -> None:
    assert GLOSS.language(text) == "en"
    assert GLOSS.english(text) == text


def test_what_the_lists_lack_stays() -> None:
    glossed = GLOSS.english("Napisz funkcję quick_sort w języku Rust, wersja 1.75, dla Vec<i32>")

    for kept in ("Rust", "1.75", "Vec", "<", "i32"):
        assert kept in glossed


def test_words_without_their_marks() -> None:
    assert GLOSS.english("cual es la definicion de una funcion") == GLOSS.english(
        "cuál es la definición de una función"
    )


def test_letters_and_their_marks_apart_are_the_same_text() -> None:
    """Two ways of writing the same in Unicode."""
    import unicodedata

    for text in ("Übersetze den folgenden Satz", "Hãy dịch câu sau", "다음 문장을 번역해"):
        apart = unicodedata.normalize("NFD", text)
        assert apart != text
        assert GLOSS.english(apart) == GLOSS.english(text)


@given(st.text())
def test_any_text_has_a_gloss_and_only_one(text: str) -> None:
    assert GLOSS.english(text) == GLOSS.english(text)


def test_most_prompts_of_the_language_set_are_told_right() -> None:
    lines = (REPO / "benchmarks/routing_languages.jsonl").read_text().splitlines()
    prompts = [json.loads(line) for line in lines]

    wrong = [one for one in prompts if GLOSS.language(one["text"]) != one["language"]]

    assert len(wrong) <= 0.05 * len(prompts)


def test_a_list_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "xx.tsv").write_text("write\tfoo\nno tab\n")

    with pytest.raises(ValueError, match=r"xx\.tsv, line 2"):
        Gloss(tmp_path)

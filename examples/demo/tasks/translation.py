"""Short English sentences and their Spanish translation, with gender and number agreement."""

import random
from dataclasses import dataclass

from examples.demo.tasks.problem import Problem, same_text

NAME = "translation"
DESCRIPTION = "Translates short English sentences into Spanish."
is_right = same_text

REQUESTS = (
    "Translate into Spanish: {sentence}",
    "Translate to Spanish: {sentence}",
    "Translate this sentence into Spanish: {sentence}",
    "Translate from English to Spanish: {sentence}",
    "How do you say this in Spanish? {sentence}",
    "How would a Spanish speaker say this? {sentence}",
    "What is this in Spanish: {sentence}",
    "Say it in Spanish: {sentence}",
    "Spanish translation: {sentence}",
    "Give me the Spanish translation of: {sentence}",
    "Put this into Spanish: {sentence}",
    "Please translate the following into Spanish. {sentence}",
    "English: {sentence} Spanish:",
    "I am learning Spanish. How do I say: {sentence}",
    "In Spanish, please: {sentence}",
    "Write this sentence in Spanish: {sentence}",
    "{sentence} Translate this into Spanish.",
    "{sentence} What does that mean in Spanish?",
)


@dataclass(frozen=True)
class Noun:
    """An English noun and its Spanish counterpart; `gender` is m or f."""

    english: str
    spanish: str
    gender: str


NOUNS = tuple(
    Noun(*entry.split())
    for entry in (
        "house casa f", "car coche m", "dog perro m", "cat gato m", "table mesa f",
        "book libro m", "apple manzana f", "flower flor f", "shirt camisa f", "hat sombrero m",
        "door puerta f", "chair silla f", "letter carta f", "boat barco m", "tree árbol m",
        "bird pájaro m", "cup taza f", "shoe zapato m", "lamp lámpara f", "window ventana f",
        "horse caballo m", "bag bolsa f", "bottle botella f", "train tren m", "street calle f",
        "garden jardín m", "bridge puente m", "river río m", "cow vaca f", "phone teléfono m",
    )
)  # fmt: skip

# English, Spanish masculine, Spanish feminine.
ADJECTIVES = (
    ("red", "rojo", "roja"), ("white", "blanco", "blanca"), ("black", "negro", "negra"),
    ("yellow", "amarillo", "amarilla"), ("small", "pequeño", "pequeña"),
    ("new", "nuevo", "nueva"), ("old", "viejo", "vieja"), ("clean", "limpio", "limpia"),
    ("expensive", "caro", "cara"), ("beautiful", "bonito", "bonita"),
    ("green", "verde", "verde"), ("big", "grande", "grande"),
    ("strange", "extraño", "extraña"), ("cheap", "barato", "barata"),
)  # fmt: skip

ACTION_SHARE = 0.65
ADJECTIVE_SHARE = 0.75

SUBJECTS = (
    ("I", 0), ("we", 1), ("they", 2), ("she", 3), ("the boy", 3), ("the girl", 3),
    ("the teacher", 3), ("my father", 3), ("my mother", 3), ("my friends", 2),
)  # fmt: skip
SPANISH_SUBJECTS = {
    "I": "", "we": "", "they": "ellos ", "she": "ella ", "the boy": "el niño ",
    "the girl": "la niña ", "the teacher": "el profesor ", "my father": "mi padre ",
    "my mother": "mi madre ", "my friends": "mis amigos ",
}  # fmt: skip

# English for I/we/they, English for she, then Spanish for I, we, they, she.
VERBS = (
    ("see", "sees", "veo", "vemos", "ven", "ve"),
    ("have", "has", "tengo", "tenemos", "tienen", "tiene"),
    ("want", "wants", "quiero", "queremos", "quieren", "quiere"),
    ("buy", "buys", "compro", "compramos", "compran", "compra"),
    ("need", "needs", "necesito", "necesitamos", "necesitan", "necesita"),
    ("draw", "draws", "dibujo", "dibujamos", "dibujan", "dibuja"),
    ("sell", "sells", "vendo", "vendemos", "venden", "vende"),
    ("look for", "looks for", "busco", "buscamos", "buscan", "busca"),
)

# English, then Spanish before a masculine and a feminine noun.
SINGULARS = (
    ("the", "el", "la"), ("my", "mi", "mi"), ("this", "este", "esta"), ("a", "un", "una"),
)  # fmt: skip
PLURALS = (
    ("the", "los", "las"), ("my", "mis", "mis"), ("these", "estos", "estas"),
    ("two", "dos", "dos"), ("three", "tres", "tres"), ("four", "cuatro", "cuatro"),
    ("five", "cinco", "cinco"),
)  # fmt: skip


@dataclass(frozen=True)
class Phrase:
    """The words of a noun phrase in both languages, already in the right gender and number."""

    determiner: str
    spanish_determiner: str
    noun: str
    spanish_noun: str
    adjective: str
    spanish_adjective: str
    is_plural: bool


def generate(rng: random.Random) -> Problem:
    """Draw a sentence with an object (`I see a red house`) or a property (`the house is red`)."""
    english, spanish = (_action if rng.random() < ACTION_SHARE else _property)(rng)
    english, spanish = (text[0].upper() + text[1:] + "." for text in (english, spanish))
    return Problem(rng.choice(REQUESTS).format(sentence=english), spanish)


def _action(rng: random.Random) -> tuple[str, str]:
    subject, person = rng.choice(SUBJECTS)
    verb = rng.choice(VERBS)
    phrase = _phrase(rng)
    english, spanish = phrase.noun, phrase.spanish_noun
    if rng.random() < ADJECTIVE_SHARE:
        english, spanish = f"{phrase.adjective} {english}", f"{spanish} {phrase.spanish_adjective}"
    article = "an" if phrase.determiner == "a" and english[0] in "aeiou" else phrase.determiner
    return (
        f"{subject} {verb[1 if person == 3 else 0]} {article} {english}",
        f"{SPANISH_SUBJECTS[subject]}{verb[2 + person]} {phrase.spanish_determiner} {spanish}",
    )


def _property(rng: random.Random) -> tuple[str, str]:
    phrase = _phrase(rng)
    be, es = ("are", "son") if phrase.is_plural else ("is", "es")
    article = "an" if phrase.determiner == "a" and phrase.noun[0] in "aeiou" else phrase.determiner
    return (
        f"{article} {phrase.noun} {be} {phrase.adjective}",
        f"{phrase.spanish_determiner} {phrase.spanish_noun} {es} {phrase.spanish_adjective}",
    )


def _phrase(rng: random.Random) -> Phrase:
    noun = rng.choice(NOUNS)
    is_plural = rng.random() < 0.5
    determiner, *determiners = rng.choice(PLURALS if is_plural else SINGULARS)
    adjective, *adjectives = rng.choice(ADJECTIVES)
    gender = 0 if noun.gender == "m" else 1
    ending = "s" if is_plural else ""
    return Phrase(
        determiner=determiner,
        spanish_determiner=determiners[gender],
        noun=noun.english + ending,
        spanish_noun=_plural(noun.spanish) if is_plural else noun.spanish,
        adjective=adjective,
        spanish_adjective=adjectives[gender] + ending,
        is_plural=is_plural,
    )


def _plural(spanish: str) -> str:
    """Plurals of the nouns above: accents move off the last syllable (`jardín`, `jardines`)."""
    if spanish.endswith(("a", "e", "o")):
        return f"{spanish}s"
    return f"{spanish.replace('ín', 'in')}es"

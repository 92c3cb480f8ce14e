"""Sentences that mention a person, a place, an organisation and a date."""

import json
import random

from examples.demo.tasks.problem import Problem, same_json
from examples.demo.tasks.words import CITIES, FIRST_NAMES, LAST_NAMES

NAME = "entities"
DESCRIPTION = "Extracts person, place, organisation and date from a sentence as one JSON object."
is_right = same_json

REQUESTS = (
    "Extract the person, place, organisation and date from this sentence: {sentence}",
    "Extract the entities from this sentence: {sentence}",
    "Find all named entities in the following text: {sentence}",
    "List the named entities as JSON: {sentence}",
    "Which person, place, organisation and date does this sentence mention? {sentence}",
    "Pull out the person, the place, the organisation and the date: {sentence}",
    "Named entity recognition: {sentence}",
    "Return the entities in this text as JSON: {sentence}",
    "Identify the person, place, organisation and date in: {sentence}",
    "Who, where, which organisation and when? Extract them from: {sentence}",
    "Get the named entities out of this news line: {sentence}",
    "Tag the entities in this sentence: {sentence}",
    "Entity extraction. Text: {sentence}",
    "Read the text and extract person, place, organisation and date. Text: {sentence}",
    "{sentence} Extract the named entities from this sentence.",
    "{sentence} Which entities are mentioned here? Answer in JSON.",
)

COMPANY_NAMES = (
    "Acme", "Globex", "Northwind", "Initech", "Umbrella", "Contoso", "Vandelay", "Stark",
    "Wayne", "Hooli", "Solaris", "Bluebird", "Redwood", "Silverline", "Orion", "Falcon",
)  # fmt: skip
COMPANY_KINDS = (
    "Bank", "Energy", "Airlines", "Motors", "Foods", "University", "Hospital", "Systems",
    "Media", "Institute",
)  # fmt: skip
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip

SENTENCES = (
    "{person} joined {organisation} in {place} on {date}.",
    "On {date}, {person} opened the new {organisation} office in {place}.",
    "{organisation} hired {person} on {date} for its team in {place}.",
    "{person} will speak for {organisation} in {place} on {date}.",
    "In {place}, {person} signed a contract with {organisation} on {date}.",
    "{person} left {organisation} on {date} and moved to {place}.",
    "{organisation} announced on {date} that {person} will lead the branch in {place}.",
    "The meeting of {person} with {organisation} took place in {place} on {date}.",
    "On {date}, {organisation} invited {person} to {place}.",
    "{person} visited {organisation} in {place} on {date}.",
)
SENTENCES_WITHOUT = {
    "person": (
        "{organisation} opened an office in {place} on {date}.",
        "On {date}, {organisation} closed its branch in {place}.",
    ),
    "place": (
        "{person} joined {organisation} on {date}.",
        "On {date}, {organisation} promoted {person}.",
    ),
    "organisation": (
        "{person} was born in {place} on {date}.",
        "On {date}, {person} travelled to {place}.",
    ),
    "date": (
        "{person} works for {organisation} in {place}.",
        "In {place}, {organisation} gave a prize to {person}.",
    ),
}
WITHOUT_SHARE = 0.3


def generate(rng: random.Random) -> Problem:
    """Draw a sentence; an entity that it does not mention is null in the answer."""
    entities: dict[str, str | None] = {
        "person": f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}",
        "place": rng.choice(CITIES),
        "organisation": f"{rng.choice(COMPANY_NAMES)} {rng.choice(COMPANY_KINDS)}",
        "date": f"{rng.randint(1, 28)} {rng.choice(MONTHS)} {rng.randint(1990, 2029)}",
    }
    form = rng.choice(SENTENCES)
    if rng.random() < WITHOUT_SHARE:
        missing = rng.choice(tuple(SENTENCES_WITHOUT))
        form = rng.choice(SENTENCES_WITHOUT[missing])
        entities[missing] = None
    prompt = rng.choice(REQUESTS).format(sentence=form.format(**entities))
    return Problem(prompt, json.dumps(entities))

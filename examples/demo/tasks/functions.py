"""Requests to a home assistant, each answered by one function call."""

import json
import random
from collections.abc import Callable

from examples.demo.tasks.problem import Problem, same_json
from examples.demo.tasks.words import CITIES, FIRST_NAMES

NAME = "functions"
DESCRIPTION = "Turns a request to a home assistant into one function call, as JSON."
is_right = same_json

Arguments = dict[str, str | int]

REQUESTS = (
    "{request}",
    "Smart home, {request}",
    "Call the right function: {request}",
    "Which function call does this request need? {request}",
    "Make the function call for this request: {request}",
    "Turn this request into a function call: {request}",
    "Use a home assistant function: {request}",
    "Home assistant, {request}",
    "Assistant, please call the function for this: {request}",
    "Give me the function call in JSON: {request}",
    "Pick the home assistant function and its arguments: {request}",
    "Function call: {request}",
)

FORMS = {
    "get_weather": (
        "what will the weather be in {city} {day}?",
        "will it rain in {city} {day}?",
        "tell me the weather forecast for {city} {day}.",
        "how warm will it be in {city} {day}?",
    ),
    "set_timer": (
        "set a timer for {minutes} minutes.",
        "start a {minutes} minute timer.",
        "wake me in {minutes} minutes with the timer.",
        "count down {minutes} minutes.",
    ),
    "set_reminder": (
        "remind me to {chore} at {hour}.",
        "set a reminder at {hour} to {chore}.",
        "at {hour}, remind me to {chore}.",
        "do not let me forget to {chore} at {hour}.",
    ),
    "play_music": (
        "play some {genre} in the {room}.",
        "put on {genre} music in the {room}.",
        "I want to hear {genre} in the {room}.",
        "start playing {genre} songs in the {room}.",
    ),
    "set_lights": (
        "turn {state} the lights in the {room}.",
        "switch the {room} lights {state}.",
        "switch {state} the lamp in the {room}.",
        "please turn the lights in the {room} {state}.",
    ),
    "send_message": (
        "send a message to {name} saying {text}.",
        "text {name}: {text}.",
        "message {name} that {text}.",
        "write to {name} and say {text}.",
    ),
    "set_temperature": (
        "set the heating in the {room} to {degrees} degrees.",
        "make it {degrees} degrees in the {room}.",
        "heat the {room} to {degrees} degrees.",
        "change the {room} thermostat to {degrees} degrees.",
    ),
    "get_directions": (
        "show me the way to {city} by {vehicle}.",
        "how do I get to {city} by {vehicle}?",
        "give me directions to {city} by {vehicle}.",
        "navigate to {city} by {vehicle}.",
    ),
}

DAYS = ("today", "tomorrow", "on Monday", "on Friday", "on Saturday", "on Sunday")
CHORES = (
    "water the plants", "call the dentist", "feed the cat", "take out the trash", "buy milk",
    "walk the dog", "pay the rent", "pick up the kids", "take my pills", "wash the car",
    "book a table", "clean the kitchen",
)  # fmt: skip
GENRES = ("jazz", "rock", "pop", "folk", "blues", "techno", "classical", "reggae", "soul")
ROOMS = (
    "kitchen", "bedroom", "living room", "bathroom", "garage", "office", "hall", "garden",
)  # fmt: skip
TEXTS = (
    "I am on my way", "dinner is ready", "I will be late", "the meeting is over",
    "happy birthday", "see you tomorrow", "the train is late", "I found the keys",
    "the parcel has arrived", "lunch is at noon",
)  # fmt: skip
VEHICLES = ("car", "train", "bike", "bus")


def generate(rng: random.Random) -> Problem:
    """Draw a request; the answer names one function and all of its arguments."""
    name = rng.choice(tuple(FORMS))
    arguments = ARGUMENTS[name](rng)
    request = rng.choice(FORMS[name]).format(**arguments)
    prompt = rng.choice(REQUESTS).format(request=request)
    answer = json.dumps({"name": name, "arguments": arguments})
    return Problem(prompt[0].upper() + prompt[1:], answer)


def _hour(rng: random.Random) -> str:
    return f"{rng.randint(1, 12)} {rng.choice(('am', 'pm'))}"


ARGUMENTS: dict[str, Callable[[random.Random], Arguments]] = {
    "get_weather": lambda rng: {"city": rng.choice(CITIES), "day": rng.choice(DAYS)},
    "set_timer": lambda rng: {"minutes": rng.randint(2, 99)},
    "set_reminder": lambda rng: {"chore": rng.choice(CHORES), "hour": _hour(rng)},
    "play_music": lambda rng: {"genre": rng.choice(GENRES), "room": rng.choice(ROOMS)},
    "set_lights": lambda rng: {"room": rng.choice(ROOMS), "state": rng.choice(("on", "off"))},
    "send_message": lambda rng: {"name": rng.choice(FIRST_NAMES), "text": rng.choice(TEXTS)},
    "set_temperature": lambda rng: {"room": rng.choice(ROOMS), "degrees": rng.randint(15, 28)},
    "get_directions": lambda rng: {"city": rng.choice(CITIES), "vehicle": rng.choice(VEHICLES)},
}

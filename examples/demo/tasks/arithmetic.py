"""Sums, differences and small products, as questions and as short word problems."""

import random

from examples.demo.tasks.problem import Problem, same_text
from examples.demo.tasks.words import FIRST_NAMES

NAME = "arithmetic"
DESCRIPTION = "Adds, subtracts and multiplies small whole numbers, also in short word problems."
is_right = same_text

QUESTIONS = {
    "+": (
        "What is {a} plus {b}?",
        "What is {a} + {b}?",
        "Calculate {a} + {b}.",
        "Add {a} and {b}.",
        "What is the sum of {a} and {b}?",
        "Compute the sum {a} + {b}.",
        "How much is {a} plus {b}?",
        "Solve this addition: {a} + {b}",
        "Please work out {a} + {b} for me.",
        "If you add {b} to {a}, what number do you get?",
        "{a} + {b} = ?",
    ),
    "-": (
        "What is {a} minus {b}?",
        "What is {a} - {b}?",
        "Calculate {a} - {b}.",
        "Subtract {b} from {a}.",
        "What is the difference between {a} and {b}?",
        "Compute the difference {a} - {b}.",
        "How much is {a} minus {b}?",
        "Solve this subtraction: {a} - {b}",
        "Please work out {a} - {b} for me.",
        "If you take {b} away from {a}, what number is left?",
        "{a} - {b} = ?",
    ),
    "*": (
        "What is {a} times {b}?",
        "What is {a} * {b}?",
        "Calculate {a} * {b}.",
        "Multiply {a} by {b}.",
        "What is the product of {a} and {b}?",
        "Compute the product {a} * {b}.",
        "How much is {a} times {b}?",
        "Solve this multiplication: {a} * {b}",
        "{a} * {b} = ?",
    ),
}

STORIES = {
    "+": (
        "{name} has {a} {things} and buys {b} more. How many {things} does {name} have now?",
        "{name} finds {a} {things} in the morning and {b} in the evening. "
        "How many {things} is that in total?",
        "There are {a} {things} in one box and {b} in another. How many {things} are there?",
        "{name} owns {a} {things} and gets {b} as a gift. How many {things} are there altogether?",
    ),
    "-": (
        "{name} has {a} {things} and gives away {b}. How many {things} are left?",
        "{name} had {a} {things} and lost {b} of them. How many {things} remain?",
        "There are {a} {things} on the table. {name} takes {b}. How many {things} remain?",
        "A shop had {a} {things} and sold {b}. How many {things} does it still have?",
    ),
    "*": (
        "{name} fills {a} bags with {b} {things} each. How many {things} are there in total?",
        "There are {a} boxes with {b} {things} in each box. How many {things} is that?",
        "{name} buys {a} packs of {b} {things}. How many {things} does {name} buy?",
    ),
}

THINGS = (
    "apples", "pencils", "marbles", "stamps", "cookies", "coins", "books", "shells",
    "oranges", "balloons", "stickers", "cards", "eggs", "buttons", "flowers", "toys",
)  # fmt: skip

STORY_SHARE = 0.4


def generate(rng: random.Random) -> Problem:
    """Draw a problem; sums and differences are worked out as `37 + 45 = 70 + 12 = 82`."""
    return draw(rng, with_steps=True)


def draw(rng: random.Random, *, with_steps: bool) -> Problem:
    """Without steps, the answer is the bare equation, `37 + 45 = 82`."""
    sign = rng.choice("++--*")
    a, b = _operands(rng, sign)
    form = rng.choice((STORIES if rng.random() < STORY_SHARE else QUESTIONS)[sign])
    prompt = form.format(a=a, b=b, name=rng.choice(FIRST_NAMES), things=rng.choice(THINGS))
    steps = _steps(a, sign, b) if with_steps else ""
    return Problem(prompt, f"{a} {sign} {b} ={steps} {_solve(a, sign, b)}")


def _operands(rng: random.Random, sign: str) -> tuple[int, int]:
    if sign == "*":
        return rng.randint(2, 9), rng.randint(2, 9)
    high = rng.choice((9, 99, 99, 99))
    a, b = rng.randint(2, high), rng.randint(2, rng.choice((9, high)))
    return (max(a, b), min(a, b)) if sign == "-" else (a, b)


def _steps(a: int, sign: str, b: int) -> str:
    """Tens and ones apart: ` 70 + 12 =` for 37 + 45, ` 20 - 2 =` for 83 - 65."""
    if sign == "*" or max(a, b) < 10:
        return ""
    tens = _solve(a - a % 10, sign, b - b % 10)
    ones = _solve(a % 10, sign, b % 10)
    return f" {tens} {'-' if ones < 0 else '+'} {abs(ones)} ="


def _solve(a: int, sign: str, b: int) -> int:
    if sign == "*":
        return a * b
    return a + b if sign == "+" else a - b

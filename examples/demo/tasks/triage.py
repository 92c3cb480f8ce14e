"""Support tickets, each for one of six queues."""

import random

from examples.demo.tasks.problem import Problem, same_text
from examples.demo.tasks.words import CITIES, FIRST_NAMES

NAME = "triage"
DESCRIPTION = "Sends a support ticket to one of six queues."
is_right = same_text

REQUESTS = (
    "Which queue should this ticket go to? {ticket}",
    "Route this support ticket to the right queue: {ticket}",
    "Which support team should handle this ticket? {ticket}",
    "Triage this customer ticket: {ticket}",
    "Assign this support ticket to a queue: {ticket}",
    "Pick the support queue for this message: {ticket}",
    "Support ticket: {ticket} Queue?",
    "Support ticket: {ticket} Which queue does it belong to?",
    "Name the queue for the following ticket: {ticket}",
    "A customer opened this ticket: {ticket} Which queue should take it?",
    "Customer support request: {ticket} Where should it go?",
    "Sort this help desk ticket into a queue: {ticket}",
    "Help desk: {ticket} Choose a queue.",
    "New ticket from {name}: {ticket} Which queue is right?",
    "Ticket {number}: {ticket} Which support queue?",
    "Please triage ticket {number}. {ticket}",
)

GREETINGS = ("", "", "Hello,", "Hi,", "Good morning,", "Dear support,", "Dear team,", "Hi there,")
CLOSINGS = (
    "", "", "Please help.", "Thanks, {name}.", "Kind regards, {name}.", "This is urgent.",
    "I am waiting for your answer.", "Thank you.", "My customer number is {number}.",
    "Please reply soon.", "I live in {city}.",
)  # fmt: skip

ISSUES = {
    "billing": (
        "I was charged twice for order {number}.",
        "my invoice for {month} shows the wrong amount.",
        "I do not understand a charge of {amount} dollars on my bill.",
        "please send me the invoice for {month}.",
        "my credit card was charged {amount} dollars too much.",
        "the tax on invoice {number} is wrong.",
        "I want to pay by bank transfer and need your bank details.",
        "my monthly subscription fee went up to {amount} dollars without notice.",
    ),
    "shipping": (
        "my parcel {number} has not arrived.",
        "where is my package with the {item}?",
        "the delivery of my {item} is {days} days late.",
        "the tracking number {number} does not show any movement.",
        "the courier left my {item} at the wrong address.",
        "can I change the delivery address of order {number} to {city}?",
        "when will you ship my {item}?",
        "the parcel was sent to {city} by mistake.",
    ),
    "refund": (
        "I returned the {item} {days} days ago and want my money back.",
        "please refund order {number}.",
        "I have not received the refund of {amount} dollars yet.",
        "the {item} does not fit, so I want to return it for a refund.",
        "I sent the {item} back and my refund is still missing.",
        "how long does a refund for the {item} take?",
        "I would like to return the {item} and get {amount} dollars back.",
        "you promised me a refund for order {number}.",
    ),
    "login": (
        "I forgot my password and cannot sign in.",
        "the password reset mail never arrives.",
        "I cannot log in since {month}.",
        "the site says my username or password is wrong.",
        "my login is locked after {days} wrong attempts.",
        "the two factor code for signing in does not work.",
        "I lost the phone that I use to log in.",
        "I am locked out and need a new password.",
    ),
    "technical": (
        "the app crashes when I open the {page} page.",
        "the website shows error {number} on the {page} page.",
        "the {page} page stays blank in my browser.",
        "the app has been very slow since the {month} update.",
        "uploading a photo of my {item} fails with an error message.",
        "the search button on the {page} page does nothing.",
        "the new version of the app freezes after {days} seconds.",
        "the {page} page does not load on my tablet.",
    ),
    "account-closure": (
        "please close my account.",
        "I want to delete my account and all my data.",
        "how can I close my account number {number}?",
        "I no longer need my account, please remove it by {month}.",
        "cancel my membership and delete my profile.",
        "I would like to end my membership in {month}.",
        "please erase my profile and personal data.",
        "after {days} years I want to leave and have my account deleted.",
    ),
}

SLOTS = {
    "month": ("January", "March", "April", "June", "July", "September", "October", "December"),
    "item": ("lamp", "jacket", "phone", "kettle", "desk", "shoes", "camera", "bike", "printer"),
    "page": ("payment", "profile", "settings", "search", "order", "start", "photo", "help"),
    "city": CITIES,
    "name": FIRST_NAMES,
}


def generate(rng: random.Random) -> Problem:
    """Draw a ticket: an optional greeting, one issue that decides the queue, a closing."""
    queue = rng.choice(tuple(ISSUES))
    slots: dict[str, object] = {slot: rng.choice(words) for slot, words in SLOTS.items()}
    slots |= {
        "number": rng.randint(1000, 9999),
        "amount": rng.randint(10, 99),
        "days": rng.randint(3, 9),
    }
    greeting = rng.choice(GREETINGS)
    issue = rng.choice(ISSUES[queue])
    issue = f"{greeting} {issue}" if greeting else issue[0].upper() + issue[1:]
    ticket = f"{issue} {rng.choice(CLOSINGS)}".strip().format(**slots)
    return Problem(rng.choice(REQUESTS).format(ticket=ticket, **slots), queue)

"""Reviews with a clear mood: positive, negative or neutral."""

import random

from examples.demo.tasks.problem import Problem, same_text

NAME = "sentiment"
DESCRIPTION = "Tells whether a review is positive, negative or neutral."
is_right = same_text

REQUESTS = (
    "What is the sentiment of this review? {review}",
    "Classify the sentiment of this review: {review}",
    "Is this review positive, negative or neutral? {review}",
    "Tell me the sentiment of the following review: {review}",
    "Sentiment analysis: {review}",
    "How does this reviewer feel? {review}",
    "Label this customer review as positive, negative or neutral: {review}",
    "Decide whether the opinion is positive, negative or neutral: {review}",
    "Rate the mood of this review: {review}",
    "What is the tone of this product review? {review}",
    "Does the writer like it? Answer positive, negative or neutral. Review: {review}",
    "Review: {review} Sentiment?",
    "{review} Is this opinion positive, negative or neutral?",
    "{review} What is the sentiment of this review?",
    "Read this review and name its sentiment: {review}",
    "Judge the feeling behind this review: {review}",
)

THINGS = (
    "film", "hotel", "restaurant", "phone", "book", "camera", "laptop", "concert", "game",
    "coffee machine", "vacuum cleaner", "jacket", "blender", "museum", "headset", "backpack",
    "tablet", "sofa", "bike", "pizza",
)  # fmt: skip

ADJECTIVES = {
    "positive": (
        "wonderful", "great", "excellent", "fantastic", "lovely", "superb", "brilliant",
        "delightful", "amazing", "perfect", "outstanding", "impressive", "really good",
    ),
    "negative": (
        "terrible", "awful", "horrible", "disappointing", "dreadful", "poor", "boring",
        "useless", "annoying", "bad", "disgusting", "a waste of money", "not good at all",
    ),
    "neutral": (
        "okay", "average", "acceptable", "ordinary", "neither good nor bad", "nothing special",
        "as expected", "fairly standard", "so-so", "just fine",
    ),
}  # fmt: skip

OPINIONS = {
    "positive": (
        "I love it.", "I would buy it again.", "I recommend it to everyone.",
        "It made me very happy.", "It is better than I hoped.", "Five stars from me.",
        "I enjoyed every minute.", "I could not be happier.", "It is worth every cent.",
    ),
    "negative": (
        "I hate it.", "I want my money back.", "I do not recommend it to anyone.",
        "It made me very angry.", "It is worse than I feared.", "One star from me.",
        "I regret buying it.", "I will never come back.", "It broke after a day.",
    ),
    "neutral": (
        "I have no strong opinion.", "It does what it says.", "Three stars from me.",
        "Some parts are good and some are bad.", "I may or may not buy it again.",
        "It is fine, no more and no less.", "I feel indifferent about it.",
    ),
}  # fmt: skip

FACTS = (
    "I got it in March.", "My sister was there too.", "We went on a Monday.",
    "It came in a blue box.", "I paid with my card.", "It was my first time.",
    "A friend told me about it.", "I have had it for two weeks.", "It was a rainy day.",
    "My neighbour has the same one.", "I saw an advert for it.", "I picked it last summer.",
)  # fmt: skip

JUDGEMENTS = (
    "The {thing} was {adjective}.",
    "This {thing} is {adjective}.",
    "I found the {thing} {adjective}.",
    "In my opinion the {thing} is {adjective}.",
    "Honestly, the {thing} was {adjective}.",
    "My new {thing} is {adjective}.",
    "The {thing} we chose was {adjective}.",
    "I think this {thing} is {adjective}.",
)


def generate(rng: random.Random) -> Problem:
    """Draw a review of two to three sentences; at least one of them carries the mood."""
    mood = rng.choice(tuple(ADJECTIVES))
    judgement = rng.choice(JUDGEMENTS).format(
        thing=rng.choice(THINGS), adjective=rng.choice(ADJECTIVES[mood])
    )
    sentences = {
        0: (judgement, rng.choice(FACTS)),
        1: (rng.choice(FACTS), judgement),
        2: (judgement, rng.choice(OPINIONS[mood])),
        3: (rng.choice(FACTS), judgement, rng.choice(OPINIONS[mood])),
        4: (judgement, rng.choice(FACTS), rng.choice(OPINIONS[mood])),
    }[rng.randrange(5)]
    return Problem(rng.choice(REQUESTS).format(review=" ".join(sentences)), mood)

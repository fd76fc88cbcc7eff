"""Sentences that nobody wrote down: a small grammar whose words use every phone of English."""

import hashlib
from collections.abc import Sequence
from typing import Literal

from flowportrait.arrays import Rng

Split = Literal["train", "validation", "test"]

_WHO = (
    "I", "You", "We", "They", "My sister", "Her teacher", "The old man", "A young doctor",
    "Our neighbour", "The whole team", "Peter", "Maria", "Nobody here", "Everyone in town",
    "The captain", "His grandmother", "That boy", "The new manager", "Both of them", "Somebody",
)  # fmt: skip
_DID = (
    "wanted to see", "never bought", "will probably find", "could not open", "should have kept",
    "was looking for", "always talks about", "forgot to bring", "is going to paint",
    "has already finished", "would gladly share", "moved", "quickly fixed", "dreams about",
    "picked up", "threw away", "described", "carefully measured", "once owned", "almost lost",
)  # fmt: skip
_WHAT = (
    "the blue vase", "a box of apples", "five small boats", "the broken window", "that funny movie",
    "some warm bread", "my favourite jumper", "the orange lamp", "twenty old books",
    "a very long bridge", "the village church", "their first house", "a bowl of soup",
    "the piano upstairs", "all of the money", "a pair of shoes", "the shallow river",
    "your computer", "the weather report", "a bunch of flowers", "the brown puppy",
    "several messages", "the purple umbrella", "a fresh cup of coffee", "the wooden fence",
    "a treasure map", "the noisy toys", "a beige garage",
)  # fmt: skip
_WHEN = (
    "this morning", "before the show", "on Wednesday", "in the middle of May", "by the frozen lake",
    "over there", "without saying why", "for a while", "when it rained", "at half past eight",
    "during the voyage", "near the museum", "after a month", "with a smile",
    "just around the corner", "far away from home", "for the very first time", "because of you",
    "under the bridge", "in our valley",
)  # fmt: skip
_ASKED = ("Why would anyone", "How could we possibly", "Do you think they", "When will somebody",
          "Did your father really", "Where can we")  # fmt: skip
_TASK = (
    "move that far", "buy a boat", "believe this story", "forget my name", "change the plan",
    "open the big gate", "push all the buttons", "live above a bakery", "watch the football game",
    "vote for him", "thank you enough", "choose a better voice",
)  # fmt: skip
_FIRST = ("Well,", "No,", "Yes, of course,", "Oh my,", "Honestly,", "By the way,", "Please listen,",
          "Good evening,", "Wow,", "Maybe,")  # fmt: skip
_HOURS = ("one", "two", "four", "five", "seven", "nine")


def draw_sentence(rng: Rng, split: Split) -> str:
    """A sentence of a split; the same sentence never belongs to two splits."""
    while True:
        sentence = _sentence(rng)
        if split_of(sentence) == split:
            return sentence


def split_of(sentence: str) -> Split:
    """The split a sentence belongs to, from its letters."""
    bucket = hashlib.sha256(sentence.encode()).digest()[0] % 10
    return {9: "test", 8: "validation"}.get(bucket, "train")


def _sentence(rng: Rng) -> str:
    """A sentence of a random form."""

    def one(words: Sequence[str]) -> str:
        return words[rng.integers(len(words))]

    kind = rng.random()
    if kind < 0.40:
        return f"{one(_WHO)} {one(_DID)} {one(_WHAT)} {one(_WHEN)}."
    if kind < 0.50:
        return f"{one(_WHO)} {one(_DID)} {one(_WHAT)}."
    if kind < 0.56:
        return f"{one(_WHO)} {one(_DID)} it."
    return _longer_sentence(kind, one, rng)


def _longer_sentence(kind, one, rng: Rng) -> str:
    """A question, or a sentence with an opening; `kind` in [0.56, 1] chooses which."""
    if kind < 0.70:
        return f"{one(_ASKED)} {one(_TASK)}, {one(_WHEN)}?"
    if kind < 0.78:
        return f"{one(_ASKED)} {one(_TASK)}?"
    if kind < 0.90:
        return f"{one(_FIRST)} {one(_WHO)} {one(_DID)} {one(_WHAT)}."
    return (
        f"{one(_FIRST)} it is {rng.integers(2, 60)} past {one(_HOURS)}, and {one(_WHO)} {one(_DID)}"
        f" {one(_WHAT)}."
    )

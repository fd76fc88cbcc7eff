"""Replies: what is read, what is refused, and that nothing is guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowportrait.scoring.reply import SCALE, read_reply

SCORE = {"score": SCALE}
ASPECTS = {"lip_sync": SCALE, "expressiveness": SCALE, "motion": SCALE}
WINNER = {"winner": ("A", "B")}


@pytest.mark.parametrize(
    "text",
    [
        '{"score": 4}',
        '<think>so {"score": 1} or 2</think>\n{"score": 4}',
        'thinking whose opening the template swallowed {"score": 2}</think>{"score": 4}',
        '<think>never closed, yet ends in the answer {"score": 4}',
        "<think>a</think>{'score': 4}",
        '<think>a</think>```json\n{"score": 4}\n```',
        'Here it is: {"score": "4"}',
        '{"score": 4.0, "why": "it is {good}"}',
        '{"result": {"score": 4}}',
        '{"score": 4} {"score": 4}',
        "Score: good.\nscore: 4",
        '**"score"**: 4.',
    ],
)
def test_forms_that_are_read(text):
    assert read_reply(text, SCORE).values == {"score": 4}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "an empty reply"),
        ("<think>a</think>  ", "an empty reply"),
        ("<think>a thought without end", "the thinking never ends"),
        ('<think>a draft {"score": 4} and more thought', "the thinking never ends"),
        ('{"score": 0}', "'score' is 0; allowed: 1, 2, 3, 4, 5"),
        ('{"score": 6}', "'score' is 6; allowed: 1, 2, 3, 4, 5"),
        ('{"score": 3.5}', "'score' is 3.5; allowed: 1, 2, 3, 4, 5"),
        ('{"score": [4]}', "'score' is [4]; allowed: 1, 2, 3, 4, 5"),
        ('{"score": true}', "'score' is True; allowed: 1, 2, 3, 4, 5"),
        ('{"score": null}', "'score' is None; allowed: 1, 2, 3, 4, 5"),
        ('{"score": "4/5"}', "'score' is '4/5'; allowed: 1, 2, 3, 4, 5"),
        ('{"score": 2} {"score": 4}', "two different answers: {'score': 2} and {'score': 4}"),
        ('{"score": 4} {"score": 7}', "'score' is 7; allowed: 1, 2, 3, 4, 5"),
        ("I would say between 3 and 4.", "no 'score' in 'I would say between 3 and 4.'"),
        ("score: 4 or 5", "no 'score' in 'score: 4 or 5'"),
        ("score: 4\nscore: 5", "several values of 'score': 4, 5"),
        ("score: 45", "'score' is 45; allowed: 1, 2, 3, 4, 5"),
        ("underscore: 4", "no 'score' in 'underscore: 4'"),
        ("I'm sorry, but I can't rate people.", "no 'score' in \"I'm sorry, but I can't rate people.\""),
        ("5", "no 'score' in '5'"),
        ("{'score': __import__('os')}", "no 'score' in \"{'score': __import__('os')}\""),
    ],
)
def test_forms_that_are_refused(text, reason):
    assert read_reply(text, SCORE) == read_reply(text, SCORE)
    reply = read_reply(text, SCORE)
    assert (reply.values, reply.reason) == ({}, reason)


def test_three_aspects_and_a_winner():
    text = "<think>x</think>{'lip_sync': 2, 'expressiveness': 5, 'motion': 3}"
    assert read_reply(text, ASPECTS).values == {"lip_sync": 2, "expressiveness": 5, "motion": 3}
    assert read_reply('{"lip_sync": 2, "motion": 3}', ASPECTS).reason == "no 'expressiveness' beside lip_sync, motion"
    assert read_reply('{"winner": "b"}', WINNER).values == {"winner": "B"}
    assert read_reply('{"winner": "C"}', WINNER).reason == "'winner' is 'C'; allowed: A, B"
    assert read_reply("winner: Apple", WINNER).reason == "no 'winner' in 'winner: Apple'"


def test_the_place_of_a_value_is_known():
    text = '<think>4</think> {"score": 4}'
    start, end = read_reply(text, SCORE).spans["score"]
    assert text[start:end] == "4" and start == text.rindex("4")


@given(st.text(alphabet="{}[]()\"':,.score12345 6<think>/\n-+e", max_size=80))
def test_whatever_comes_gives_a_score_or_a_reason(text):
    reply = read_reply(text, SCORE)
    assert bool(reply.values) != bool(reply.reason)
    assert not reply.values or (reply.values["score"] in SCALE and str(reply.values["score"]) in text)

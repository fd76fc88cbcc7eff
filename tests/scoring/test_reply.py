"""Replies: what is read, what is refused, and that nothing is guessed."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowportrait.scoring.judges.reply import SCALE, read_reply

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
        '{"why": "lips {p, b} close", "score": 4}',
        '{"score": 4, "rubric": {"lips": "good", "notes": [{"sound": "clear"}]}}',
        "{'score': 4, 'why': 'the rater\\'s {note}'}",
        '<answer>{"score": 4}</answer><|im_end|>',
        '```json\n{"score": 4}\n```\n---',
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
        ('{"score": 2, "rubric": {"score": 5}}', "'score' stands 2 times in one object: 2, 5"),
        ('{"rubric": [{"score": 2}, {"score": 5}]}', "'score' stands 2 times in one object: 2, 5"),
        ('{"score": 2, "score": 4}', "'score' stands 2 times in one object: 2, 4"),
        ("{'score': 2, 'score': 4}", "'score' stands 2 times in one object: 2, 4"),
        ('{"score": {"score": 4}}', "'score' stands 2 times in one object: {'score': 4}, 4"),
        (
            'The form is {"score": 5}, but I cannot rate this.',
            "words follow the answer: 'but I cannot rate this.'",
        ),
        ('{"score": 4}\nOn second thought 3.', "words follow the answer: 'On second thought 3.'"),
        (
            "score: 4\nThat is, if I could rate this.",
            "words follow the answer: 'That is, if I could rate this.'",
        ),
        ('<think>{"score": 5}</think>I cannot rate this.', "no 'score' in 'I cannot rate this.'"),
        ('<think>a draft {"score": 4}, then words', "the thinking never ends"),
        ("I would say between 3 and 4.", "no 'score' in 'I would say between 3 and 4.'"),
        ("score: 4 or 5", "no 'score' in 'score: 4 or 5'"),
        ("score: 4\nscore: 5", "several values of 'score': 4, 5"),
        ("score: 45", "'score' is 45; allowed: 1, 2, 3, 4, 5"),
        ("underscore: 4", "no 'score' in 'underscore: 4'"),
        (
            "I'm sorry, but I can't rate people.",
            "no 'score' in \"I'm sorry, but I can't rate people.\"",
        ),
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
    assert (
        read_reply('{"lip_sync": 2, "motion": 3}', ASPECTS).reason
        == "no 'expressiveness' beside lip_sync, motion"
    )
    assert read_reply('{"winner": "b"}', WINNER).values == {"winner": "B"}
    assert read_reply('{"winner": "C"}', WINNER).reason == "'winner' is 'C'; allowed: A, B"
    assert read_reply("winner: Apple", WINNER).reason == "no 'winner' in 'winner: Apple'"


def test_the_place_of_a_value_is_known():
    text = '<think>4</think> {"score": 4}'
    start, end = read_reply(text, SCORE).spans["score"]
    assert text[start:end] == "4" and start == text.rindex("4")


def test_a_flood_of_braces_is_read_in_no_time():
    started_s = time.perf_counter()
    for flood in ("{" * 60_000, '{"a":' * 12_000, "{'a': {" * 9_000):
        assert read_reply(flood, SCORE).reason.startswith("no 'score' in")
        assert read_reply(f'{{"score": 5}}{flood} {{"score": 4}}', SCORE).reason
    assert time.perf_counter() - started_s < 5


@given(st.text(alphabet="{}[]()\"':,.score12345 6<think>/\n-+e", max_size=80))
def test_whatever_comes_gives_a_score_or_a_reason(text):
    reply = read_reply(text, SCORE)
    assert bool(reply.values) != bool(reply.reason)
    assert not reply.values or (
        reply.values["score"] in SCALE and str(reply.values["score"]) in text
    )

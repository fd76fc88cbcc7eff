"""Rates, waits and what a server's word on waiting is taken to be; and when scores tell nothing
apart.
"""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from flowportrait.records import Score
from flowportrait.scoring.judges.backends import Estimate, Usage, digits_of, gemini_replies, openai
from flowportrait.scoring.judges.pacing import Bucket, Budget, Prices, Purse, Retries
from flowportrait.scoring.judges.saturation import spreads


def test_a_bucket_lets_through_its_rate_and_no_more():
    now_s = [100.0]
    bucket = Bucket(60, burst_s=1.0, now=lambda: now_s[0])
    assert [bucket.reserve(1) for _ in range(4)] == [0.0, 0.0, 1.0, 2.0]
    now_s[0] += 60
    assert [bucket.reserve(1) for _ in range(3)] == [0.0, 0.0, 1.0]
    assert Bucket(None).reserve(1e9) == 0.0


def test_a_bucket_of_tokens_is_corrected_by_what_was_used():
    bucket = Bucket(6000, burst_s=0.0, now=lambda: 0.0)
    assert bucket.reserve(1000) == 0.0
    bucket.settle(-900)
    assert bucket.reserve(1000) == pytest.approx(1.0)


def test_waits_grow_and_the_server_has_the_last_word():
    retries = Retries(first_s=1, longest_s=10)
    assert all(
        retries.wait_s(attempt, None) <= min(10, 2**attempt)
        for attempt in range(10)
        for _ in range(20)
    )
    assert all(23 <= retries.wait_s(1, 23.0) <= 25.3 for _ in range(20))


def test_the_words_of_gemini_and_of_openai_servers():
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "23.5s"}]
    assert gemini_replies.retry_after_s({"error": {"code": 429, "details": details}}) == 23.5
    assert (
        gemini_replies.retry_after_s({"error": {"code": 503}})
        is gemini_replies.retry_after_s("text")
        is None
    )
    assert (
        openai.retry_after_s({"retry-after": "7"}) == 7
        and openai.retry_after_s({"retry-after-ms": "250"}) == 0.25
    )
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 50 < openai.retry_after_s({"retry-after": date}) <= 60
    assert openai.retry_after_s({"retry-after": "soon"}) is openai.retry_after_s({}) is None


def test_a_server_that_counts_nothing_is_booked_as_estimated():
    purse = Purse(
        Budget(max_tokens=100), Prices(input_usd_per_million=1e6, output_usd_per_million=2e6)
    )
    purse.reserve(Estimate(30, 10))
    purse.settle(Estimate(30, 10), Usage())
    assert (purse.tokens, purse.usd, purse.calls) == (40, 50.0, 1)
    purse.reserve(Estimate(30, 10))
    purse.settle(Estimate(30, 10), None)
    assert (purse.tokens, purse.calls) == (40, 1)


def test_digits_are_found_among_tokens():
    tokens = [
        ("1", {"1": 1.0}),
        ("x" * 300, {}),
        ('{"score":', {}),
        (" 4", {" 4": 0.5, "4": 0.2, " 5": 0.2, " x": 0.1}),
    ]
    (digit,) = digits_of([*tokens, ("}", {"}": 1.0}), ("\n", {}), ("<|im_end|>", {})])
    assert (digit.digit, digit.tail) == ("4", "}") and digit.odds == pytest.approx(
        {"4": 0.7, "5": 0.2}
    )


def rows(values):
    return [
        Score(clip=f"{i}", scorer="s", value=value, parts={"motion": value})
        for i, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "saturated"),
    [
        ([4, 5] * 20, True),
        ([3] * 40, True),
        ([1, 2, 3, 4, 5] * 8, False),
        ([5] * 35 + [1] * 5, False),
        ([5] * 10, False),
    ],
)
def test_saturation(values, saturated):
    (spread,) = spreads(rows(values))
    assert spread.saturated == saturated and (spread.scorer, spread.part, spread.count) == (
        "s",
        "motion",
        len(values),
    )


def test_spread_in_numbers():
    (spread,) = spreads(rows([4, 5, 1, 1]))
    assert (spread.high_share, spread.entropy_bits) == (0.5, 1.5)

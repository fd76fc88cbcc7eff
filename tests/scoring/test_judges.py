"""The six systems against the simulated server, through the vendors' real clients in both
protocols.
"""

import math
import os
import time

import numpy as np
import pytest

from flowportrait.clips import find_samples
from flowportrait.errors import ConfigError, JudgeError, JudgeRefused, JudgeUnavailable
from flowportrait.media import Clip
from flowportrait.registry import COMPARERS, SCORERS
from flowportrait.scoring import ASPECTS, Sample
from flowportrait.scoring.judges.asking import Judge, JudgeConfig
from flowportrait.scoring.judges.backends import Question, Video, build_backend
from flowportrait.scoring.judges.backends.wire import raise_reported
from flowportrait.scoring.judges.faults import BODY_FAULTS
from flowportrait.scoring.judges.prompts import load_prompt, prompt_names
from flowportrait.scoring.judges.systems import MaComp, MasMa, MasSa, SasSa

pytest.importorskip("openai")
pytest.importorskip("google.genai")

PROTOCOLS = ["openai", "gemini"]
KEYS = {
    "overall": '"score"', "aspects": '"lip_sync"', **dict.fromkeys(ASPECTS, '"score"'),
    **{name: '"winner"' for name in prompt_names() if name.startswith("compare")},
}  # fmt: skip


def system_of(name, settings, tmp_path):
    config = JudgeConfig.model_validate(settings)
    table = SCORERS if name in SCORERS.names() else COMPARERS
    return table.load(name)(config, judge=Judge(config, tmp_path / "answers.jsonl"))


def score_one(name, settings, clip, tmp_path):
    (score,) = system_of(name, settings, tmp_path).score([Sample("a", Clip(clip))])
    return score


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_score_systems(protocol, start_sim, clip, tmp_path):
    sim = start_sim()
    for kind, calls in ((SasSa, 1), (MasSa, 1), (MasMa, 3)):
        before = sim.sim.calls
        score = score_one(kind.name, sim.judge(protocol), clip, tmp_path)
        assert score.reason == "" and score.unit == "points" and len(score.answers) == calls
        assert sim.sim.calls - before == calls
        assert set(score.parts) == ({"overall"} if kind is SasSa else set(ASPECTS))
        assert all(part in (1, 2, 3, 4, 5) for part in score.parts.values())
        assert score.value == sum(score.parts.values()) / len(score.parts)
        assert score.model == ("sim" if protocol == "openai" else "gemini-2.5-pro")
        # The same again costs nothing: the answers are stored.
        assert score_one(kind.name, sim.judge(protocol), clip, tmp_path) == score
        assert sim.sim.calls - before == calls


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("single-quotes", ""),
        ("fenced", ""),
        ("wrong-range", "allowed: 1, 2, 3, 4, 5"),
        ("fraction", "'score' is 3.5"),
        ("two-scores", "two different answers"),
        ("nested-score", "'score' stands 2 times in one object: 2, 5"),
        ("double-key", "'score' stands 2 times in one object: 2, 4"),
        ("quoted", "words follow the answer: 'but I cannot rate this.'"),
        ("prose", "no 'score' in"),
        ("refusal", "no 'score' in"),
        ("truncated", "cut off at the limit of output tokens"),
        ("thought-away", "cut off at the limit of output tokens"),
        ("blocked", "blocked"),
        ("replaced", "'sim-replacement' answered instead of"),
        ("rate-limit", "no answer after 3 attempts: 429"),
        ("overloaded", "no answer after 3 attempts: 503"),
        ("server-error", "no answer after 3 attempts: 500"),
        ("cut", "no answer after 3 attempts"),
        ("hang", "no answer after 3 attempts: no answer within 0.5 s"),
        ("half-json", "no answer after 3 attempts"),
        ("bad-request", "400"),
    ],
)
def test_every_fault_ends_in_a_score_or_a_reason(
    protocol, fault, reason, start_sim, clip, tmp_path
):
    sim = start_sim(fault=[{"kind": fault, "retry_after_s": 0.01}], hang_s=5)
    settings = sim.judge(
        protocol, retries={"attempts": 3}, limits={"timeout_s": 0.5 if fault == "hang" else 60}
    )
    score = score_one("sas-sa", settings, clip, tmp_path)
    if not reason:
        assert score.reason == "" and score.value == score.parts["overall"]
        return
    assert math.isnan(score.value) and reason in score.reason
    unanswered = (
        "rate-limit",
        "overloaded",
        "server-error",
        "cut",
        "hang",
        "half-json",
        "bad-request",
    )
    assert len(score.answers) == (0 if fault in (*unanswered, "replaced") else 2)


ODD_BODIES = {
    "web-page": "a web page, as of a proxy or a login, with status 200",
    "login": "302 redirect to 'https://login.example.org/sign-in'",
    "empty-body": "an empty reply with status 200",
    "array": "a list with status 200 where an answer is due",
    "null": "null with status 200",
    "string": "a string with status 200",
    "nested-deeply": "no JSON with status 200",
    "half-json": "no JSON with status 200",
    "quota-in-200": "an error with status 200: 429 quota exhausted",
    "error-in-200": "an error with status 200: upstream went away",
    "no-choice": "an answer without a c",
    "no-message": "not an answer of ",
    "content-dict": "not an answer of ",
}
READABLE_BODIES = ["content-parts", "half-character", "bad-usage", "bad-logprobs"]


def test_every_odd_body_is_tried():
    assert {*ODD_BODIES, *READABLE_BODIES} == set(BODY_FAULTS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("fault", ODD_BODIES)
def test_an_odd_200_is_asked_again_and_is_no_answer(protocol, fault, start_sim, clip, tmp_path):
    sim = start_sim(fault=[{"kind": fault}])
    system = system_of("sas-sa", sim.judge(protocol, retries={"attempts": 3}), tmp_path)
    (score,) = system.score([Sample("a", Clip(clip))])
    assert (
        math.isnan(score.value)
        and f"no answer after 3 attempts: {ODD_BODIES[fault]}" in score.reason
    )
    assert sim.sim.calls == 3
    # Nothing of it is stored, and nothing counts as paid.
    assert score.answers == [] and len(system.judge.store) == 0 and system.judge.purse.tokens == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("fault", READABLE_BODIES)
def test_an_answer_of_an_unusual_shape_is_read(protocol, fault, start_sim, clip, tmp_path):
    plain = score_one("sas-sa", start_sim().judge(protocol), clip, tmp_path / "plain")
    sim = start_sim(fault=[{"kind": fault}])
    score = score_one(
        "sas-sa", sim.judge(protocol, backend={"logprobs": True}), clip, tmp_path / "odd"
    )
    assert score.reason == "" and score.value == plain.value and sim.sim.calls == 1
    # Read again from the store, whatever stood in it.
    assert (
        score_one("sas-sa", sim.judge(protocol, backend={"logprobs": True}), clip, tmp_path / "odd")
        == score
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_probabilities_are_made_of_bad_ones(protocol, start_sim, clip, tmp_path):
    sim = start_sim(fault=[{"kind": "bad-logprobs"}])
    settings = sim.judge(protocol, backend={"logprobs": True}, use_expected=True)
    assert "no token probabilities" in score_one("sas-sa", settings, clip, tmp_path).reason


def test_a_quota_reported_within_a_200_pauses_all_calls_and_stops_the_run(
    start_sim, clips, tmp_path
):
    sim = start_sim(fault=[{"kind": "quota-in-200"}])
    retries = {
        "attempts": 50,
        "breaker_after": 5,
        "breaker_s": 0.05,
        "breaker_openings": 2,
        "first_s": 0.01,
    }
    system = system_of(
        "sas-sa", sim.judge("openai", retries=retries, budget={"max_tokens": 100_000}), tmp_path
    )
    with pytest.raises(JudgeError, match="judge: down; 5 calls in a row failed"):
        list(system.score(find_samples([clips(10)])))
    assert system.judge.purse.tokens == 0


@pytest.mark.parametrize(
    ("reported", "kind"),
    [
        ({"error": {"code": 503, "message": "busy"}}, JudgeUnavailable),
        ({"error": {"message": "who knows"}}, JudgeUnavailable),
        ({"error": {"code": "rate_limit_exceeded", "message": "slow down"}}, JudgeUnavailable),
        ({"object": "error", "code": 400, "message": "too long"}, JudgeRefused),
        ({"error": {"code": "400", "message": "too long"}}, JudgeRefused),
        ({"error": {"code": 401, "message": "no such key"}}, JudgeError),
    ],
)
def test_an_error_within_a_200_is_taken_for_what_it_says(reported, kind):
    with pytest.raises(JudgeError) as raised:
        raise_reported(reported, None, "check the key")
    assert type(raised.value) is kind
    assert (reported.get("error") or reported)["message"] in str(raised.value)


PASSING = [
    "rate-limit",
    "overloaded",
    "cut",
    "web-page",
    "login",
    "quota-in-200",
    "no-message",
    "half-json",
    "prose",
]


@pytest.mark.parametrize("fault", [*PASSING, "blocked", "replaced"])
def test_what_passes_is_overcome(fault, start_sim, clip, tmp_path):
    sim = start_sim(fault=[{"kind": fault, "last": 0, "retry_after_s": 0.01}])
    assert score_one("sas-sa", sim.judge("gemini"), clip, tmp_path).reason == ""
    assert sim.sim.calls == 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nobody_comes_back_before_the_server_said(protocol, start_sim, clip, tmp_path):
    sim = start_sim(fault=[{"kind": "rate-limit", "last": 0, "retry_after_s": 0.7}])
    started_s = time.monotonic()
    assert (
        score_one("mas-ma", sim.judge(protocol, limits={"in_flight": 1}), clip, tmp_path).reason
        == ""
    )
    assert time.monotonic() - started_s > 0.7 and sim.sim.calls == 4


def test_an_unusable_reply_is_quoted_when_asked_again(start_sim, clip, tmp_path):
    sim = start_sim(fault=[{"kind": "wrong-range", "last": 0}])
    system = system_of("sas-sa", sim.judge("openai"), tmp_path)
    (score,) = system.score([Sample("a", Clip(clip))])
    assert score.reason == "" and len(score.answers) == 2
    first, second = (system.judge.store.get(key) for key in score.answers)
    assert (
        "allowed: 1, 2, 3, 4, 5"
        in system.judge._judged(first, Question(()), {"score": (1, 2, 3, 4, 5)}).reason
    )
    assert second.finish == "stop"


def test_one_lost_aspect_leaves_the_clip_unscored_and_the_others_visible(start_sim, clip, tmp_path):
    sim = start_sim(fault=[{"kind": "bad-request", "last": 0}])
    score = score_one("mas-ma", sim.judge("openai"), clip, tmp_path)
    assert math.isnan(score.value) and "400" in score.reason
    assert sum(math.isnan(part) for part in score.parts.values()) == 1


def test_files_api_takes_a_clip_once_for_three_aspects(start_sim, clip, tmp_path):
    sim = start_sim(processing_s=0.2)
    settings = sim.judge("gemini", backend={"upload": "files", "poll_s": 0.05})
    assert score_one("mas-ma", settings, clip, tmp_path).reason == ""
    assert len(sim.sim._files) == 1 and sim.sim.calls == 3


def test_a_file_that_was_forgotten_is_sent_again(start_sim, clip, tmp_path):
    sim = start_sim(fault=[{"kind": "prose", "last": 0}])
    system = system_of(
        "sas-sa",
        sim.judge("gemini", backend={"upload": "files"}, limits={"in_flight": 1}),
        tmp_path,
    )
    says = sim.sim._said
    sim.sim._said = lambda ask, kind: (says(ask, kind), sim.sim._files.clear())[0]
    (score,) = system.score([Sample("a", Clip(clip))])
    assert score.reason == "" and sim.sim.calls == 2


def test_a_file_that_cannot_be_processed_is_a_reason(start_sim, clip, tmp_path):
    sim = start_sim(fault=[{"kind": "file-failed"}])
    score = score_one("sas-sa", sim.judge("gemini", backend={"upload": "files"}), clip, tmp_path)
    assert score.reason == f"overall: the Files API could not process {clip.name}"


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b"null", b'"file"', b'{"file": [1]}', b'{"error": "gone"}']
)
def test_an_odd_body_of_the_files_api_is_a_reason(body, start_sim, clip, tmp_path):
    sim = start_sim()
    upload = sim.sim._file
    sim.sim._file = lambda method, path, headers, sent: (
        upload(method, path, headers, sent)
        if headers.get("x-goog-upload-command") == "start"
        else (200, body, {"X-Goog-Upload-Status": "final"})
    )
    settings = sim.judge("gemini", backend={"upload": "files"}, retries={"attempts": 2})
    score = score_one("sas-sa", settings, clip, tmp_path)
    assert (
        score.reason.startswith("overall: no answer after 2 attempts")
        and "Files API" in score.reason
    )


@pytest.mark.parametrize("use_expected", [False, True])
def test_expected_scores_come_from_token_probabilities(use_expected, start_sim, clip, tmp_path):
    sim = start_sim()
    settings = sim.judge("openai", backend={"logprobs": True}, use_expected=use_expected)
    score = score_one("mas-ma", settings, clip, tmp_path)
    for aspect in ASPECTS:
        integer = score.parts[aspect]
        other = (integer + 3) % 5 + 1
        assert score.expected[aspect] == pytest.approx(0.8 * integer + 0.2 * other, abs=1e-3)
    made_of = score.expected if use_expected else score.parts
    assert score.value == pytest.approx(sum(made_of.values()) / 3)


def test_no_probabilities_no_expected_score(start_sim, clip, tmp_path):
    score = score_one("sas-sa", start_sim().judge("gemini", use_expected=True), clip, tmp_path)
    assert "no token probabilities" in score.reason


def test_a_comparison_needs_no_probabilities(start_sim, clips, tmp_path):
    a, b = find_samples([clips(2)])
    (verdict,) = system_of(
        "direct-comp", start_sim().judge("openai", use_expected=True), tmp_path
    ).compare([(a, b)])
    assert verdict.reason == ""


def test_repeats_are_asked_apart(start_sim, clip, tmp_path):
    sim = start_sim()
    scores = list(
        system_of("sas-sa", sim.judge("gemini", repeats=3), tmp_path).score(
            [Sample("a", Clip(clip))]
        )
    )
    assert sorted(score.repeat for score in scores) == [0, 1, 2] and sim.sim.calls == 3
    assert len({score.answers[0] for score in scores}) == 3


def test_a_clip_that_cannot_be_judged_is_not_asked_about(start_sim, clip, tmp_path):
    from flowportrait import media

    media.remux(clip, tmp_path / "mute.mp4", sound=False)
    (tmp_path / "text.mp4").write_text("no video")
    sim = start_sim()
    for name, reason in (("mute.mp4", "no sound track"), ("text.mp4", "cannot be read")):
        assert reason in score_one("mas-ma", sim.judge("gemini"), tmp_path / name, tmp_path).reason
    assert sim.sim.calls == 0


def test_what_is_odd_about_a_clip_stands_beside_its_score_and_its_verdict(
    start_sim, clip, tmp_path
):
    from flowportrait import media

    silent = tmp_path / "silent.mp4"
    frames = list(media.read_frames(clip))
    media.write_video(silent, frames, 24, np.zeros(8000, np.float32), 16_000, {})
    sim = start_sim()
    for name, lines in ((clip, 0), (silent, 1)):
        score = score_one("sas-sa", sim.judge("gemini"), name, tmp_path)
        assert score.reason == "" and len(score.warnings) == lines
        assert all("silent.mp4: its sound is silence" in line for line in score.warnings)
    pair = (Sample("a", Clip(clip)), Sample("b", Clip(silent)))
    [verdict] = system_of("direct-comp", sim.judge("gemini"), tmp_path).compare([pair])
    assert verdict.warnings == score.warnings


def test_sound_that_cannot_be_decoded_is_not_judged(start_sim, clip, tmp_path, monkeypatch):
    from flowportrait.errors import MediaError
    from flowportrait.scoring.judges import systems

    def broken(path, **_):
        raise MediaError(f"{path}: damaged sound (of this test)")

    monkeypatch.setattr(systems, "read_audio", broken)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    sim = start_sim()
    assert "damaged sound" in score_one("mas-ma", sim.judge("gemini"), copy, tmp_path).reason
    assert sim.sim.calls == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", COMPARERS.names())
def test_comparison_systems(protocol, name, start_sim, clips, tmp_path):
    sim = start_sim()
    samples = find_samples([clips(8)])
    pairs = list(zip(samples[::2], samples[1::2], strict=True))
    verdicts = {
        verdict.a: verdict
        for verdict in system_of(name, sim.judge(protocol), tmp_path).compare(pairs)
    }
    assert set(verdicts) == {a.id for a, _ in pairs}
    for verdict in verdicts.values():
        assert (
            verdict.reason == ""
            and len(verdict.orders) == 1
            and list(verdict.orders.values()) == [verdict.winner]
        )
        assert len(verdict.answers) == (4 if name == "ma-comp" else 1)
        assert set(verdict.parts) == (set(ASPECTS) if name == "ma-comp" else set())
    again = {
        verdict.a: verdict
        for verdict in system_of(name, sim.judge(protocol), tmp_path).compare(pairs[::-1])
    }
    assert again == verdicts


def test_the_order_shown_hangs_on_the_seed_and_the_pair_only(start_sim, tmp_path):
    sim = start_sim()
    pairs = [(Sample(f"a{i}", Clip(tmp_path)), Sample(f"b{i}", Clip(tmp_path))) for i in range(200)]
    systems = [
        system_of("direct-comp", sim.judge("openai", seed=seed), tmp_path) for seed in (0, 1)
    ]
    orders = [[system.orders(*pair) for pair in pairs] for system in systems]
    assert orders[0] != orders[1]
    assert all(60 < sum(order == ("ab",) for order in by_seed) < 140 for by_seed in orders)


def test_both_orders_that_disagree_are_a_tie(start_sim, clips, tmp_path):
    sim = start_sim()
    samples = find_samples([clips(12)])
    pairs = list(zip(samples[::2], samples[1::2], strict=True))
    verdicts = list(
        system_of("direct-comp", sim.judge("openai", both_orders=True), tmp_path).compare(pairs)
    )
    for verdict in verdicts:
        agreed = verdict.orders["ab"] == verdict.orders["ba"]
        assert verdict.winner == (verdict.orders["ab"] if agreed else "tie")
    # The simulated judge decides by a digest of what it is shown, so both cases occur.
    assert {verdict.winner == "tie" for verdict in verdicts} == {True, False}


def test_no_verdict_when_an_aspect_has_none(start_sim, clips, tmp_path):
    sim = start_sim(fault=[{"kind": "bad-request", "last": 0}])
    a, b = find_samples([clips(2)])
    (verdict,) = system_of("ma-comp", sim.judge("openai"), tmp_path).compare([(a, b)])
    assert verdict.winner is None and "400" in verdict.reason and sim.sim.calls == 3
    assert len(verdict.parts) == 2 and verdict.orders == {}


def test_the_aggregator_reads_what_the_three_found(start_sim, clips, tmp_path):
    a, b = find_samples([clips(2)])
    sim = start_sim()
    system = system_of("ma-comp", sim.judge("openai"), tmp_path)
    (verdict,) = system.compare([(a, b)])
    assert isinstance(system, MaComp)
    asked = {stored.topic: stored for stored in system.judge.store.all()}
    assert len(asked["compare-verdict"].videos) == 0 and len(asked["compare-lip_sync"].videos) == 2


# -------------------------------------------------------------------------------------------------
# prompts


@pytest.mark.parametrize("name", prompt_names())
def test_prompts_say_where_they_come_from_and_what_to_answer(name):
    prompt = load_prompt(name)
    assert prompt.version == "1"
    assert prompt.source.startswith("after Table" if name in ASPECTS else "this project's own")
    if name in KEYS:
        assert KEYS[name] in prompt.text and "<think>" in prompt.text
    if name in (*ASPECTS, "overall"):
        assert all(f"- **{score}, " in prompt.text for score in range(1, 6))


def test_a_folder_of_prompts_replaces_and_is_seen_in_the_fingerprint(start_sim, tmp_path):
    sim = start_sim()
    own = tmp_path / "own"
    own.mkdir()
    (own / "motion.md").write_text('Rate the motion as {"score": N}.')
    shipped = system_of("mas-ma", sim.judge("openai"), tmp_path)
    changed = system_of("mas-ma", sim.judge("openai", prompts=str(own)), tmp_path)
    assert changed.prompts["motion"].text == 'Rate the motion as {"score": N}.'
    assert changed.prompts["lip_sync"] == shipped.prompts["lip_sync"]
    assert changed.fingerprint != shipped.fingerprint
    for wrong, message in (
        ("", "contains no prompt"),
        ("---\nversion: 1\n", "the header is not closed"),
    ):
        (own / "motion.md").write_text(wrong)
        with pytest.raises(ConfigError, match=message):
            load_prompt("motion", own)
    with pytest.raises(ConfigError, match="no folder"):
        load_prompt("motion", tmp_path / "none")


# ------------------------------------------------------------------------------------- what stops a
# run


def test_a_key_is_asked_for(start_sim, clip, tmp_path, monkeypatch):
    settings = start_sim().judge("gemini", backend={"api_key_env": "NO_SUCH_KEY"})
    with pytest.raises(JudgeError, match="set the environment variable NO_SUCH_KEY"):
        score_one("sas-sa", settings, clip, tmp_path)
    assert "NO_SUCH_KEY" not in os.environ


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_wrong_address_stops_at_once(protocol, start_sim, clip, tmp_path):
    sim = start_sim()
    settings = sim.judge(protocol, backend={"base_url": f"{sim.url}/nothing"})
    with pytest.raises(JudgeError, match="404.*check the key"):
        score_one("mas-ma", settings, clip, tmp_path)


def test_replaced_three_times_stops_the_run(start_sim, clips, tmp_path):
    sim = start_sim(fault=[{"kind": "replaced"}])
    samples = find_samples([clips(6)])
    system = system_of("sas-sa", sim.judge("openai", limits={"in_flight": 1}), tmp_path)
    with pytest.raises(
        JudgeError, match="'sim-replacement' answered instead of 'sim', 3 times in a row"
    ):
        list(system.score(samples))
    assert sim.sim.calls == 3 and len(system.judge.store) == 0
    accepting = sim.judge("openai", accept_models=["sim-replacement"])
    assert all(
        score.reason == "" for score in system_of("sas-sa", accepting, tmp_path).score(samples)
    )


def test_a_judge_that_is_down_stops_the_run(start_sim, clips, tmp_path):
    sim = start_sim(fault=[{"kind": "overloaded"}])
    retries = {
        "attempts": 50,
        "breaker_after": 5,
        "breaker_s": 0.05,
        "breaker_openings": 2,
        "first_s": 0.01,
    }
    system = system_of("sas-sa", sim.judge("gemini", retries=retries), tmp_path)
    with pytest.raises(
        JudgeError, match="judge: down; 5 calls in a row failed, and 2 more after pauses"
    ):
        list(system.score(find_samples([clips(30)])))
    assert sim.sim.calls < 30


def test_a_server_that_asks_for_hours_stops_the_run(start_sim, clip, tmp_path):
    sim = start_sim(fault=[{"kind": "rate-limit", "retry_after_s": 7200}])
    with pytest.raises(JudgeError, match="asks to wait 7200 s"):
        score_one("mas-ma", sim.judge("gemini"), clip, tmp_path)


@pytest.mark.parametrize("limit", [{"max_tokens": 20_000}, {"max_usd": 0.02}])
def test_the_budget_stops_the_run_and_keeps_what_was_paid(limit, start_sim, clips, tmp_path):
    sim = start_sim()
    prices = {"input_usd_per_million": 1.0, "output_usd_per_million": 1.0}
    settings = sim.judge("gemini", budget=limit, prices=prices)
    system = system_of("sas-sa", settings, tmp_path)
    samples, scores = find_samples([clips(20)]), []
    with pytest.raises(JudgeError, match="budget spent"):
        for score in system.score(samples):
            scores.append(score)
    assert 0 < len(scores) < 20 and system.judge.purse.tokens <= 20_000
    assert len(system.judge.store) == sim.sim.calls == len(scores)
    rest = list(system_of("sas-sa", sim.judge("gemini"), tmp_path).score(samples))
    assert len(rest) == sim.sim.calls == 20


@pytest.mark.parametrize("kind", ["openai", "transformers"])
def test_no_model_is_chosen_for_the_user(kind):
    with pytest.raises(ConfigError, match=r"judge\.backend\.model: missing"):
        build_backend({"type": kind})


def test_a_budget_in_money_needs_prices(start_sim, tmp_path):
    with pytest.raises(ConfigError, match="needs judge.prices"):
        system_of("sas-sa", start_sim().judge("openai", budget={"max_usd": 1}), tmp_path)


def test_within_a_running_event_loop(start_sim, clip, tmp_path):
    import asyncio

    async def scored():
        system = system_of("sas-sa", start_sim().judge("openai"), tmp_path)
        return [score async for score in system.stream([Sample("a", Clip(clip))])]

    assert asyncio.run(scored())[0].reason == ""


# ----------------------------------------------------------------------------------------- hearing
# and seeing


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("modalities", [True, False])
def test_a_judge_that_hears_and_sees_passes(protocol, modalities, start_sim, clip, tmp_path):
    sim = start_sim(modalities=modalities)
    score = score_one("sas-sa", sim.judge(protocol, check="tokens"), clip, tmp_path)
    assert score.reason == "" and sim.sim.calls == 1 + 4


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("fault", "message"), [("deaf", "does not hear"), ("blind", "does not see motion")]
)
def test_a_deaf_or_blind_judge_is_refused(protocol, fault, message, start_sim, clip, tmp_path):
    sim = start_sim(fault=[{"kind": fault}])
    with pytest.raises(JudgeError, match=message):
        score_one("mas-ma", sim.judge(protocol, check="tokens"), clip, tmp_path)
    assert sim.sim.calls == 4


def test_sound_left_in_the_video_is_not_heard_unless_the_server_is_told(start_sim, clip, tmp_path):
    sim = start_sim()
    heard = sim.judge("openai", check="tokens", backend={"sound": "in-video"})
    assert score_one("sas-sa", heard, clip, tmp_path).reason == ""
    untold = heard | {"backend": heard["backend"] | {"extra_body": {"mm_processor_kwargs": {}}}}
    with pytest.raises(JudgeError, match="does not hear"):
        score_one("sas-sa", untold, clip, tmp_path)


def test_sound_that_is_dropped_now_and_then_is_noticed(start_sim, clip, tmp_path):
    sim = start_sim(fault=[{"kind": "deaf", "first": 4, "last": 5}])
    score = score_one("sas-sa", sim.judge("gemini", check="tokens"), clip, tmp_path)
    assert score.reason == "overall: the sound was not heard (0 audio tokens)"


def test_a_frame_rate_that_is_ignored_is_noticed(start_sim, clip, tmp_path):
    sim = start_sim()
    ignored = {"media_io_kwargs": {"video": {"fps": 1}}}
    settings = sim.judge("openai", check="tokens", backend={"extra_body": ignored})
    with pytest.raises(JudgeError, match="looks at one frame a second whatever is asked for"):
        score_one("sas-sa", settings, clip, tmp_path)


def test_a_canary_of_the_shipped_sample(tmp_path):
    from flowportrait.scoring.judges.canary import make_canary

    canary = make_canary(tmp_path)
    assert isinstance(canary.whole, Video)
    assert (canary.whole.facts.num_frames, canary.still.facts.num_frames) == (48, 1)
    assert (
        canary.whole.facts.has_sound
        and canary.still.facts.has_sound
        and not canary.silent.facts.has_sound
    )

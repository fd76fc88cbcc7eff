"""The offline judge: a table that rises, damage that lowers the aspect it hurts, and a name that
hides nothing.
"""

import json

import numpy as np
import pytest

from bench import offline_judge
from flowportrait import cli
from flowportrait.media import Clip, Sound
from flowportrait.records import Score, read_jsonl
from flowportrait.registry import MEASURES, MODELS_DIR
from flowportrait.scoring import ASPECTS, Sample
from flowportrait.scoring.metrics import offline, tracking
from flowportrait.scoring.metrics.blendshapes import eye_edges, face_shapes
from flowportrait.scoring.metrics.signals import SIGNALS
from flowportrait.scoring.metrics.view import CandidateView, View
from flowportrait.scoring.reward import Candidate
from flowportrait.scoring.rewards import build_measures
from flowportrait.scoring.run import ScoringConfig
from flowportrait.world.degrade import ClipInMemory, degrade
from flowportrait.world.names import SHAPE

CLIP = MODELS_DIR.parent / "samples" / "world" / "anny_00009_1.mp4"  # held out


@pytest.fixture(scope="module")
def clean():
    return View(Sample("clean", Clip(CLIP)))


def damaged(clean, name, strength):
    with np.load(CLIP.with_suffix(".npz")) as truth:
        landmarks = truth["landmarks68"].astype(np.float32)[: len(clean.frames)]
    other = Sound(clean.sound[::-1].copy(), 16_000)
    worse = degrade(
        ClipInMemory(clean.frames, Sound(clean.sound, 16_000), 24.0, landmarks, other),
        name,
        strength,
    )
    view = CandidateView(Candidate(name, worse.frames, 24.0, worse.sound, worse.frames[0]))
    view.keep("face squares", lambda: tracking.track_face(clean).squares)
    return view


def test_the_shipped_table_rises_from_1_to_5():
    table = offline.calibration()
    assert list(table) == list(ASPECTS)
    for by_signal in table.values():
        for name, knots in by_signal.items():
            values, scores = np.array(knots).T
            assert name in SIGNALS and (np.diff(values) >= 0).all() and (np.diff(scores) > 0).all()
            assert scores[0] == 1 and scores[-1] == 5
            assert (
                offline.score_of(values[0] - 9, knots) == 1
                and offline.score_of(values[-1] + 9, knots) == 5
            )


@pytest.mark.parametrize(
    ("damage", "strength", "aspect"),
    [
        ("shifted_sound", 8, "lip_sync"),
        ("frozen_mouth", 1.0, "lip_sync"),
        ("frozen_face", 1.0, "motion"),
        ("jitter", 4, "motion"),
        ("dropped_frames", 0.75, "motion"),
    ],
)
def test_damage_lowers_the_aspect_that_it_hurts(clean, damage, strength, aspect):
    before, after = (
        offline.rate(clean, aspect),
        offline.rate(damaged(clean, damage, strength), aspect),
    )
    assert 1 <= after.value < before.value <= 5
    assert after.value <= 2.5


def test_expressiveness_falls_step_by_step_and_lip_sync_stays(clean):
    views = [
        clean,
        *(damaged(clean, "muted_expression", strength) for strength in (0.25, 0.5, 1.0)),
    ]
    scores = [offline.rate(view, "expressiveness").value for view in views]
    assert all(a > b for a, b in zip(scores, scores[1:], strict=False)), scores
    assert scores[0] - scores[-1] > 1
    lips = [offline.rate(view, "lip_sync").value for view in (clean, views[-1])]
    assert lips[1] == pytest.approx(lips[0], abs=0.4)


def test_face_shapes_are_read_from_a_person_never_seen(clean):
    track = tracking.track_face(clean)
    shapes = face_shapes(track.landmarks, eye_edges(track.frames, track.landmarks))
    with np.load(CLIP.with_suffix(".npz")) as truth:
        told = truth["arkit"].astype(np.float32)
    for name in ("jawOpen", "eyeBlinkLeft", "mouthLowerDownRight"):
        assert np.corrcoef(shapes[name], told[: len(track.frames), SHAPE[name]])[0, 1] > 0.6


def test_a_face_that_is_hard_to_follow_is_scored_in_the_middle(clean, monkeypatch):
    unsure = damaged(clean, "jitter", 4)
    sure = offline.rate(unsure, "motion")
    assert sure.parts["trust"] == 1 and sure.value < 2.5
    monkeypatch.setattr(
        unsure,
        "keep",
        lambda key, compute, keep=unsure.keep: 0.2 if key == "mirror error" else keep(key, compute),
    )
    assert offline.rate(unsure, "motion").value == 3


def test_a_curve_through_noisy_steps_rises_and_reaches_both_ends():
    rng = np.random.default_rng(0)
    goals = np.repeat([1.0, 2, 3, 4, 5], 8)
    curve = np.array(offline_judge.knots(goals + rng.normal(0, 0.8, 40), goals, np.ones(40)))
    assert (np.diff(curve[:, 0]) >= 0).all() and curve[0, 1] == 1 and curve[-1, 1] == 5
    flat = offline_judge.knots(np.ones(4), np.array([1.0, 5, 1, 5]), np.ones(4))
    assert len({value for value, _ in flat}) == 1


@pytest.fixture
def looks(clean, monkeypatch):
    """Counts how often a face is looked for; it is where it was in the clean clip."""
    found, squares = [], tracking.track_face(clean).squares

    def look(blocks):
        found.append(sum(map(len, blocks)))
        return squares

    monkeypatch.setattr(tracking, "face_squares", look)
    return found


def test_it_answers_as_a_judge_under_its_own_name(tmp_path, capsys, looks):
    settings = ["--set", "judge.backend.type=offline", "--set", "judge.backend.name=signals"]
    out = tmp_path / "s.jsonl"
    names = "mas-ma,offline-lip-sync,offline-expressiveness,offline-motion"
    assert (
        cli.run(["score", str(CLIP), "--scorers", names, "-o", str(out), "--json", *settings]) == 0
    )
    scores = {score.scorer: score for score in read_jsonl(out, Score)}
    judged = scores.pop("mas-ma")
    assert judged.model == "offline:signals"
    assert {
        aspect: value in (1, 2, 3, 4, 5) for aspect, value in judged.parts.items()
    } == dict.fromkeys(ASPECTS, True)
    for aspect, score in zip(ASPECTS, scores.values(), strict=True):
        assert abs(score.value - judged.parts[aspect]) <= 0.5 and score.unit == "1-5 (offline)"
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["unscored"] == 0
    assert len(looks) == 2, "once for the three scorers, once for the judge's three questions"


def test_its_aspects_are_rewards(clean, tmp_path, looks):
    candidate = Candidate("x", clean.frames, 24.0, Sound(clean.sound, 16_000), clean.frames[0])
    names = ["offline-lip-sync", "offline-expressiveness", "offline-motion"]
    measures = build_measures(names, MEASURES, ScoringConfig(), tmp_path / "answers.jsonl")
    for aspect, name in zip(ASPECTS, names, strict=True):
        assert measures[name](candidate) == pytest.approx(
            offline.rate(clean, aspect).value, abs=1e-3
        )
    assert len(looks) == 1


def test_the_judge_looks_once_at_a_candidate_that_three_rewards_ask_about(clean, tmp_path, looks):
    candidate = Candidate("x", clean.frames, 24.0, Sound(clean.sound, 16_000), clean.frames[0])
    config = ScoringConfig.model_validate(
        {"judge": {"backend": {"type": "offline", "name": "signals"}}}
    )
    measures = build_measures(ASPECTS, MEASURES, config, tmp_path / "answers.jsonl")
    assert all(measures[aspect](candidate) in (1, 2, 3, 4, 5) for aspect in ASPECTS)
    assert len(looks) == 1

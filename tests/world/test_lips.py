"""What the mouth does: visemes in order, lips that close, silence that looks silent, speakers that
differ.
"""

import numpy as np
import pytest

from flowportrait.world.articulate import articulate, close_lips, draw_style, viseme_segments
from flowportrait.world.camera import Motion
from flowportrait.world.head import _lip_gap
from flowportrait.world.names import SHAPE, TEETH, TONGUE, VISEME, VISEMES, weights
from flowportrait.world.person import draw_person
from flowportrait.world.phones import VISEMES_OF, Phone, from_espeak, spoken
from flowportrait.world.rig import EYE_DISTANCE, vertices_of
from flowportrait.world.scene import Scene

FPS, SEEDS = 24, range(12)
HELD_S = 0.25
"""How long each phone is held where single visemes are looked at."""


def lips_of(rig, seed):
    return _lip_gap(rig, draw_person(rig, seed)[1])


def said(phones: list[tuple[str, float]], lips, seed=0, emotion=None):
    """Gaps between the lips in eye distances, at every frame, and the speech."""
    starts = np.cumsum([0.0, *(length_s for _, length_s in phones)])
    timed = [
        Phone(float(start_s), name) for start_s, (name, _) in zip(starts, phones, strict=False)
    ]
    count = round(starts[-1] * FPS)
    style = draw_style(np.random.default_rng(seed))
    speech = articulate(timed, float(starts[-1]), count, np.ones(count), style)
    faces = speech.faces.copy()
    for index, weight in (emotion or {}).items():
        faces[:, index] += weight
    return lips.of(close_lips(np.clip(faces, 0, 1), speech.visemes, lips)) / EYE_DISTANCE, speech


def gap_of(phone: str, lips, seed=0) -> float:
    gaps, _ = said([("pau", HELD_S), (phone, HELD_S), ("pau", HELD_S)], lips, seed)
    return float(gaps[round(1.5 * HELD_S * FPS)])


def test_openings_are_in_order(rig):
    """Closed for p and silence, then f, s, and the vowels by how open they are; over people and
    styles.
    """
    order = [("p", "pau"), ("f",), ("s",), ("ih",), ("eh",), ("aa",)]
    mean = [
        np.mean([gap_of(phone, lips_of(rig, seed), seed) for phone in group for seed in SEEDS])
        for group in order
    ]
    assert mean == sorted(mean), dict(zip(order, mean, strict=True))
    assert mean[0] < 0.01 and 0.015 < mean[1] < 0.05 and mean[-1] > 0.12


@pytest.mark.parametrize("phone", ["p", "b", "m"])
@pytest.mark.parametrize(
    "emotion",
    [{}, weights(mouthSmile=0.4), weights(mouthUpperUp=0.2)],
    ids=["", "happy", "disgust"],
)
def test_lips_close_between_open_vowels(rig, phone, emotion):
    for seed in SEEDS:
        gaps, _ = said(
            [("pau", 0.2), ("aa", 0.12), (phone, 0.09), ("ae", 0.12), ("pau", 0.2)],
            lips_of(rig, seed),
            seed,
            emotion,
        )
        assert gaps.min() < 0.012, (seed, gaps)
        closure = gaps[round(0.32 * FPS) : round(0.42 * FPS) + 1]
        assert closure.min() < 0.012 and gaps.max() > 0.06


def test_silence_looks_silent(rig):
    for seed in SEEDS:
        gaps, speech = said([("pau", 1.0)], lips_of(rig, seed), seed, weights(mouthSmile=0.1))
        assert np.abs(gaps).max() < 0.03 and np.ptp(gaps) < 1e-6
        assert (
            speech.faces[:, SHAPE["jawOpen"]].max() == 0
            and (speech.visemes[:, VISEME["sil"]] == 1).all()
        )


def test_visemes_are_shares_in_time():
    phones = [Phone(0.1, "hh"), Phone(0.2, "ay"), Phone(0.5, "pau")]
    segments = viseme_segments(phones, 0.8)
    assert [segment.viseme for segment in segments] == ["sil", "kk", "aa", "I", "sil"]
    assert segments[0].start_s == 0 and segments[-1].end_s == 0.8
    assert all(a.end_s == b.start_s for a, b in zip(segments, segments[1:], strict=False))
    speech = articulate(phones, 0.8, 19, np.ones(19), draw_style(np.random.default_rng(0)))
    assert np.allclose(speech.visemes.sum(1), 1) and speech.visemes.min() >= 0


def test_tongue_rises_for_l_and_shows_for_th(rig):
    lips = lips_of(rig, 0)
    _, el = said([("aa", 0.2), ("l", 0.2), ("aa", 0.2)], lips)
    _, th = said([("aa", 0.2), ("th", 0.2), ("aa", 0.2)], lips)
    middle = round(0.3 * FPS)
    assert el.tongue[middle] > 0.3 > 0.1 > el.tongue[0]
    assert th.faces[middle, SHAPE["tongueOut"]] > 0.15


def test_the_tongue_is_seen_between_the_teeth_for_th_and_behind_them_for_l(head):
    """On a rendered head: its pixels, and how far its tip lies behind the front of the upper teeth,
    in cm.
    """
    scene = Scene(head, [5], 64)
    teeth, tongue = vertices_of(head.rig, TEETH), vertices_of(head.rig, TONGUE)
    behind, seen = {}, {}
    for phone in ("th", "l", "ih", "p"):
        _, speech = said([("aa", 0.2), (phone, 0.25), ("aa", 0.2)], head.lips)
        middle = slice(round(0.32 * FPS), round(0.32 * FPS) + 1)
        faces = close_lips(
            np.clip(speech.faces[middle], 0, 1), speech.visemes[middle], head.lips
        ).astype(np.float32)
        motion = Motion(faces, np.zeros((1, 6)), np.zeros((1, 2)), speech.tongue[middle])
        points = scene._posed(motion)[0]
        behind[phone] = points[teeth, 2].max() - points[tongue, 2].max()
        list(scene.film(motion))
        ids = scene._layers[3]
        seen[phone] = (head.rig.parts[head.rig.triangles[ids[ids >= 0], 0]] == TONGUE).sum()
    assert behind["th"] < 0.1 < behind["l"] < 0.6 < 0.8 < behind["ih"], behind
    assert min(seen["th"], seen["l"]) > 30 and seen["p"] < 5, seen


def test_speakers_move_differently(rig):
    sentence = [
        ("hh", 0.08),
        ("eh", 0.1),
        ("l", 0.07),
        ("ow", 0.2),
        ("w", 0.08),
        ("er", 0.12),
        ("l", 0.07),
        ("d", 0.07),
    ]
    lips = lips_of(rig, 0)
    gaps = np.stack([said(sentence, lips, seed)[0] for seed in range(8)])
    assert gaps.max(1).std() > 0.01, "how far"
    assert np.corrcoef(gaps).min() < 0.99, "and not only that"


def test_every_phone_has_visemes_and_spellings_give_phones():
    assert {viseme for visemes in VISEMES_OF.values() for viseme in visemes} == set(VISEMES)
    for word in (
        "bin",
        "blue",
        "at",
        "f",
        "two",
        "now",
        "Thought",
        "machine",
        "quick",
        "vision",
        "I",
        "x",
        "w",
    ):
        phones = spoken(word)
        assert phones and set(phones) <= VISEMES_OF.keys(), word
    assert spoken("lake") == ["l", "ey", "k"] and spoken("ship") == ["sh", "ih", "p"]
    for mnemonic, phone in {
        "p": "p",
        "'aI": "ay",
        "tS": "ch",
        "_:": "pau",
        "T": "th",
        "@L": "l",
        "u:": "uw",
    }.items():
        assert from_espeak(mnemonic) == phone

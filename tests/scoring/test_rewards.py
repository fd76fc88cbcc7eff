"""The names in the paper's recipes are scorers that a training run can ask."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from flowportrait import registry
from flowportrait.config import load_recipe
from flowportrait.errors import CheckpointError, ConfigError
from flowportrait.media import Sound
from flowportrait.scoring.desk import ScoringDesk
from flowportrait.scoring.metrics import tracking
from flowportrait.scoring.reward import Candidate, Measure
from flowportrait.scoring.rewards import PAPER, build_measures, named, require_rewards
from flowportrait.scoring.run import ScoringConfig

RECIPES = Path(__file__).parents[2] / "recipes"


def candidate(key="a", shift=0, frames=6):
    frames = np.random.default_rng(3).integers(0, 255, (frames, 32, 32, 3)).astype(np.uint8)
    sound = Sound(0.1 * np.sin(np.arange(len(frames) * 667) * 0.2).astype(np.float32), 16000)
    return Candidate(key, np.roll(frames, shift, 2), 24.0, sound, frames[0], truth=frames)


@pytest.mark.parametrize(
    "path", [*RECIPES.glob("ablation-*.toml"), RECIPES / "rl-paper.toml"], ids=lambda p: p.stem
)
def test_every_name_in_the_recipes_is_real(path):
    from flowportrait.train.rl import RlRecipe

    names = load_recipe(path, RlRecipe).reward.scorers
    assert names and {PAPER.get(name, name) for name in names} <= set(registry.SCORERS.names())


def test_measures_have_a_direction_that_the_reward_alone_turns_round():
    names = ["ssim", "colour-drift", "colour_drift", "smoothness", "landmark_lips"]
    measures = build_measures(names, registry.MEASURES, ScoringConfig(), Path("a"))
    assert measures["ssim"](candidate()) == pytest.approx(1)
    other = Candidate(
        "b",
        candidate(shift=3).frames,
        24.0,
        candidate().sound,
        candidate().portrait,
        candidate().frames,
    )
    assert measures["ssim"](other) < 0.5
    metric, monitor = measures["colour-drift"], measures["colour_drift"]
    assert (
        metric(candidate()) == pytest.approx(monitor(candidate()), rel=1e-3) and metric(other) > 0
    )
    assert metric.better == monitor.better == "lower" and measures["ssim"].better == "higher"
    assert metric.as_reward(np.array([2.0])) == -2 and measures["ssim"].as_reward(np.ones(1)) == 1
    assert measures["landmark_lips"].reads == "points" and measures["ssim"].reads == "frames"
    alone = Candidate("c", candidate().frames, 24.0, candidate().sound, candidate().portrait)
    assert math.isnan(measures["ssim"](alone))


def test_what_watches_is_no_reward():
    watching = [
        name for name in registry.MEASURES.names() if named(registry.MEASURES, name).monitor
    ]
    assert {"jitter", "motion_px", "mesh_lips", "colour_drift"} <= set(watching)
    for name in watching:
        with pytest.raises(ConfigError, match=f"reward.terms: '{name}' is a monitor"):
            require_rewards(["closeness", name], registry.MEASURES)
    require_rewards(["closeness", "landmark_lips", "perceptual"], registry.MEASURES)


def test_judges_have_threads_of_their_own():
    """Two computing threads, and yet eight clips are with the judge at a time."""
    together = threading.Barrier(8, timeout=10)

    def judge(clip):
        together.wait()
        return 1.0

    measures = {"judge": Measure(judge, waits=True), "metric": Measure(lambda clip: 2.0)}
    desk = ScoringDesk(measures, workers=2, waiting=8)
    for number in range(8):
        desk.submit(candidate(str(number)), ["judge"] if number else None)
    rows = desk.collect()
    assert rows == [{"judge": 1.0, "metric": 2.0}] + [{"judge": 1.0}] * 7
    desk.close()


def test_all_metrics_of_a_candidate_share_one_look_at_its_face(monkeypatch):
    looks = []

    def look(blocks):
        frames = np.concatenate(list(blocks))
        looks.append(frames)
        return np.tile([0.0, 0.0, 32.0], (len(frames), 1))

    monkeypatch.setattr(tracking, "face_squares", look)
    names = ["offline-lip-sync", "offline-expressiveness", "offline-motion", "sync-small"]
    measures = build_measures(names, registry.MEASURES, ScoringConfig(), Path("a"))
    clips = [candidate(str(i), shift=i, frames=40) for i in range(2)]
    desk = ScoringDesk(measures, workers=4)
    for clip in clips:
        desk.submit(clip)
    assert len(desk.collect()) == 2
    desk.close()
    assert sorted(look.tobytes() for look in looks) == sorted(
        clip.frames.tobytes() for clip in clips
    )


def test_what_is_not_there_is_one_line(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="measure: no 'perceptul'; did you mean 'perceptual'"):
        build_measures(["perceptul"], registry.MEASURES, ScoringConfig(), tmp_path / "a")
    monkeypatch.setenv("FLOWPORTRAIT_WEIGHTS", str(tmp_path))
    weights = {"lpips": {"weights": str(tmp_path / "alexnet.pth")}}
    with pytest.raises(
        CheckpointError, match="alexnet.pth: no such file; download https://.* and put it at"
    ):
        build_measures(
            ["perceptual"], registry.MEASURES, ScoringConfig(scorers=weights), tmp_path / "a"
        )


def test_aspects_are_asked_of_one_judge(start_sim, tmp_path):
    pytest.importorskip("openai")
    sim = start_sim()
    config = ScoringConfig.model_validate({"judge": sim.judge("openai")})
    names = ["lip_sync", "expressiveness", "motion"]
    measures = build_measures(names, registry.MEASURES, config, tmp_path / "answers.jsonl")
    with ThreadPoolExecutor(4) as pool:
        clips = [candidate(str(i), shift=i) for i in range(3)]
        values = list(
            pool.map(
                lambda job: measures[job[0]](job[1]),
                [(name, clip) for name in names for clip in clips],
            )
        )
    assert all(1 <= value <= 5 and value == int(value) for value in values) and sim.sim.calls == 9

"""Thousands of calls under a mix of faults, and kills in between: every clip ends once, with a
score or a reason.

FLOWPORTRAIT_LONG_TESTS=1 makes it the full 5,000 calls; without it 180.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowportrait.clips import find_samples
from flowportrait.records import Score, read_jsonl
from flowportrait.scoring.judges.answers import AnswerStore
from flowportrait.scoring.judges.faults import BODY_FAULTS
from flowportrait.scoring.run import ScoringConfig, build_scorers, score_to_file

pytest.importorskip("openai")
pytest.importorskip("google.genai")

ROOT = Path(__file__).parents[2]
NUM_CLIPS = 1667 if os.environ.get("FLOWPORTRAIT_LONG_TESTS") else 60
IN_FLIGHT = 64

SHARES = {
    "rate-limit": 0.03,
    "overloaded": 0.02,
    "server-error": 0.01,
    "hang": 0.003,
    "cut": 0.01,
    "truncated": 0.01,
    "single-quotes": 0.05,
    "wrong-range": 0.02,
    "prose": 0.01,
    "refusal": 0.01,
    "blocked": 0.01,
    "replaced": 0.01,
    "bad-request": 0.01,
    "two-scores": 0.01,
    "nested-score": 0.01,
    "double-key": 0.01,
    "quoted": 0.01,
    **dict.fromkeys(BODY_FAULTS, 0.01),
}
MIX = [{"kind": kind, "share": share, "retry_after_s": 0.02} for kind, share in SHARES.items()]


def settings_of(sim, protocol):
    limits = {"in_flight": IN_FLIGHT, "timeout_s": 60}
    return {"judge": sim.judge(protocol, limits=limits, retries={"attempts": 8})}


def checked(out, answers, ids):
    """The scores of the file, after what must hold of every finished run."""
    scores = list(read_jsonl(out, Score))
    assert [score.clip for score in scores] == ids
    for score in scores:
        integers = [part for part in score.parts.values() if part == part]
        assert all(part in (1, 2, 3, 4, 5) for part in integers)
        assert (
            (score.value == sum(integers) / 3) if not score.reason else (score.value != score.value)
        )
    keys = [line[8:72] for line in answers.read_bytes().splitlines()]
    assert len(keys) == len(set(keys)) == len(AnswerStore(answers))
    return scores


@pytest.mark.parametrize("protocol", ["openai", "gemini"])
def test_every_clip_ends_once(protocol, start_sim, clips, tmp_path):
    sim = start_sim(fault=MIX, hang_s=1, latency_s=0.02)
    samples = find_samples([clips(NUM_CLIPS)])
    out, answers = tmp_path / "scores.jsonl", tmp_path / "answers.jsonl"
    scorers = build_scorers(
        ["mas-ma"], ScoringConfig.model_validate(settings_of(sim, protocol)), answers
    )
    started_s = time.perf_counter()
    summary = score_to_file(
        samples, scorers, out, retry_unscored=False, progress=lambda done, total: None
    )
    took_s = time.perf_counter() - started_s
    scores = checked(out, answers, [sample.id for sample in samples])
    assert scores == summary.scores
    stats = sim.sim.stats()
    assert stats["calls"] > 3 * NUM_CLIPS and len(stats["faults"]) > len(MIX) / 2
    assert stats["peak_in_flight"] <= IN_FLIGHT
    # About 2 % of the questions are refused, or answered unusably twice; far more would mean that
    # something is lost.
    assert len(summary.unscored) < 0.2 * NUM_CLIPS
    print(
        f"\n{stats['calls']} calls, {sum(stats['faults'].values())} faults, {len(summary.unscored)}"
        f" of {NUM_CLIPS} clips unscored, {took_s:.1f} s, peak {stats['peak_in_flight']} in flight"
    )


def test_kill_9_and_resume_lose_nothing_and_double_nothing(start_sim, clips, tmp_path):
    sim = start_sim(fault=MIX, hang_s=1, latency_s=0.05)
    folder = clips(NUM_CLIPS)
    out, answers = tmp_path / "scores.jsonl", tmp_path / "answers.jsonl"
    config = tmp_path / "judge.json"
    config.write_text(json.dumps(settings_of(sim, "openai")))
    code = "from flowportrait.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "score",
        str(folder),
        "--scorers",
        "mas-ma",
        "-o",
        str(out),
    ]
    command += ["--config", str(config)]
    for rows in (NUM_CLIPS // 8, NUM_CLIPS // 2):
        run = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while run.poll() is None and (not out.exists() or out.read_bytes().count(b"\n") < rows):
            time.sleep(0.02)
        assert run.poll() is None, "the run ended before it could be killed"
        run.send_signal(signal.SIGKILL)
        run.wait()
        # What a kill within a write leaves.
        with out.open("ab") as file:
            file.write(b'{"schema_version":1,"cl')
    before = {
        score.clip for score in map(Score.model_validate_json, out.read_bytes().splitlines()[:-1])
    }
    stored = len(AnswerStore(answers))
    calls = sim.sim.calls
    done = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kept"] == len(before) >= NUM_CLIPS // 2
    scores = checked(out, answers, sorted(str(path) for path in folder.iterdir()))
    assert len(scores) == NUM_CLIPS
    # Answers that were stored are not asked for again: the calls since are those that gave the
    # rest, and failures.
    since = sim.sim.calls - calls
    assert since < 1.6 * (len(AnswerStore(answers)) - stored) + IN_FLIGHT
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and sim.sim.calls - calls == since, again.stderr

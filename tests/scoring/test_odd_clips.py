"""Odd clips of real people, compared by a judge: each gets its verdict, and is heard as the film it
was made from.
"""

import base64
import json

import numpy as np
import pytest
from cases import FOLDER, VIDEOS, shift_s

from flowportrait import cli, media
from flowportrait.files import VIDEO_SUFFIXES
from flowportrait.records import Verdict, read_jsonl
from flowportrait.scoring.judges.backends import Video

pytest.importorskip("openai", reason="the extra 'judges' is not installed")


def shown_to(sim):
    """The sounds of the two clips of the newest question."""
    parts = sim.last_request["messages"][0]["content"]
    sounds = [
        np.frombuffer(base64.b64decode(part["input_audio"]["data"])[44:], "<i2") / 32768
        for part in parts
        if part["type"] == "input_audio"
    ]
    return [media.Sound(sound.astype(np.float32), 16_000) for sound in sounds]


@pytest.mark.skipif(not FOLDER.is_dir(), reason="../shared/cases is not there")
@pytest.mark.parametrize("case", VIDEOS, ids=lambda case: case.name)
def test_a_verdict_on_each_against_the_clean_film(case, start_sim, tmp_path):
    running, out = start_sim(), tmp_path / "v.jsonl"
    (tmp_path / "judge.json").write_text(json.dumps({"judge": running.judge("openai")}))
    pair = [str(FOLDER / case.name), str(FOLDER / case.like)]
    judge = ["--system", "direct", "--config", str(tmp_path / "judge.json")]
    assert cli.run(["compare", *pair, "-o", str(out), *judge]) == 0
    [verdict] = read_jsonl(out, Verdict)
    assert verdict.winner in ("a", "b") and not verdict.reason and not verdict.warnings
    one, other = shown_to(running.sim)
    assert abs(shift_s(one, other)) < 0.5 / 24
    assert abs(one.duration_s - other.duration_s) < 0.5 / 24


def test_a_clip_is_sent_as_what_it_is(tmp_path):
    kinds = {suffix: Video(tmp_path / f"a{suffix.upper()}").mime_type for suffix in VIDEO_SUFFIXES}
    assert kinds[".mpg"] == kinds[".mpeg"] == "video/mpeg" and kinds[".ts"] == "video/mp2t"
    assert {suffix for suffix, kind in kinds.items() if kind == "video/mp4"} == {".mp4", ".m4v"}

"""Sets: what is planned, what is resumed, what is refused; and a few frames that are the same every
time.
"""

import json
import multiprocessing
import os
import signal
import wave
from functools import lru_cache

import numpy as np
import pytest

from flowportrait import cli
from flowportrait.errors import ConfigError, DataError, MissingDependency
from flowportrait.world import sets, speech
from flowportrait.world.phones import VISEMES_OF
from flowportrait.world.sets import Settings, plan, render_set


class FakeSpeaker:
    """Is there, and never asked."""


@pytest.fixture
def rendered(monkeypatch) -> list[str]:
    """Keys in the order in which they are rendered; nothing is, but the files appear."""
    keys: list[str] = []

    def fake(out_dir, take):
        keys.append(take.key)
        for suffix in (".mp4", ".npz"):
            (out_dir / f"{take.key}{suffix}").write_bytes(b"x")
        return {"key": take.key, "split": take.split, "duration": 1.0}

    monkeypatch.setattr(sets, "render_take", fake)
    monkeypatch.setattr(sets, "make_speaker", lambda voice: FakeSpeaker())
    return keys


def test_splits_are_by_identity_and_even_small_sets_have_all():
    takes = plan(Settings(identities=5), clips=11)
    assert [take.take for take in takes] == [0, 1, 2, 0, 1, 0, 1, 0, 1, 0, 1]
    by_identity = {take.identity_seed: take.split for take in takes}
    assert by_identity == {0: "train", 1: "train", 9: "test", 2: "train", 8: "validation"}
    many = [take.split for take in plan(Settings(identities=40, seed=3), clips=40)]
    assert many.count("train") == 32 and many.count("test") == many.count("validation") == 4


def test_a_larger_set_contains_the_smaller():
    small = plan(Settings(identities=4), clips=6)
    assert {take.key for take in small} < {
        take.key for take in plan(Settings(identities=4), clips=13)
    }


def test_a_run_goes_on_where_it_stopped(rendered, tmp_path):
    settings = Settings(identities=2)
    render_set(tmp_path, settings, clips=4)
    assert len(rendered) == 4
    (tmp_path / "anny_00001_0.npz").unlink()
    with (tmp_path / "clips.jsonl").open("a") as index:
        index.write('{"key": "anny_00001_2", "spl')
    seen = []
    records = render_set(
        tmp_path, settings, clips=6, progress=lambda done, total: seen.append((done, total))
    )
    assert rendered[4:] == ["anny_00000_2", "anny_00001_0", "anny_00001_2"]
    assert seen == [(4, 6), (5, 6), (6, 6)] and len(records) == 6
    lines = [
        json.loads(line)["key"] for line in (tmp_path / "clips.jsonl").read_text().splitlines()
    ]
    assert lines == sorted(record["key"] for record in records)


def test_other_settings_are_refused(rendered, tmp_path):
    render_set(tmp_path, Settings(identities=2), clips=2)
    with pytest.raises(ConfigError, match="started with seed 0, now 1; use another folder"):
        render_set(tmp_path, Settings(identities=2, seed=1), clips=2)
    with pytest.raises(ConfigError, match="--size: got 100; give one of 64, 128, 256, 512"):
        render_set(tmp_path, Settings(size_px=100), clips=2)
    (tmp_path / "clips.jsonl").write_text("{no json\n{}\n")
    with pytest.raises(DataError, match="clips.jsonl:1: invalid record"):
        render_set(tmp_path, Settings(identities=2), clips=2)


def test_voices_that_are_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(speech, "which", lambda name: None)
    monkeypatch.setattr(speech, "espeak_library", lambda: None)
    with pytest.raises(MissingDependency, match="apt install flite espeak-ng"):
        speech.make_speaker("auto")
    with pytest.raises(ConfigError, match="--voice: no 'flit'; did you mean 'flite'"):
        speech.make_speaker("flit")
    with pytest.raises(DataError, match="no recording with a transcript"):
        speech.make_speaker(str(tmp_path))


def test_the_command(rendered, tmp_path, capsys, monkeypatch):
    def fake_coverage(records):
        return {"phones": {"p": 3, "zh": 0}, "visemes": {"PP": 3}}

    monkeypatch.setattr(sets, "coverage", fake_coverage)
    assert (
        cli.run(["world", "render", str(tmp_path), "--clips", "7", "--workers", "1", "--json"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"7 clips, 7.0 s, 1/2 phones (not zh), 1/1 visemes: {tmp_path}"
    assert json.loads(lines[-1])["coverage"]["phones"]["zh"] == 0
    assert json.loads((tmp_path / "world.json").read_text())["identities"] == 2
    assert cli.run(["world", "render", str(tmp_path), "--clips", "7", "--size", "100"]) == 2
    assert capsys.readouterr().err == "error: --size: got 100; give one of 64, 128, 256, 512\n"
    assert cli.run(["world", "import-rig", str(tmp_path), "-o", "rig.npz"]) == 2
    assert "no known head model" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_frames(head):
    from flowportrait.world.camera import Motion
    from flowportrait.world.head import build_head
    from flowportrait.world.scene import Filmed, Scene

    motion = Motion(
        np.full((2, 52), 0.05, np.float32), np.zeros((2, 6)), np.zeros((2, 2)), np.ones(2)
    )

    def film(head) -> list[Filmed]:
        return list(Scene(head, [5], 64).film(motion))

    first, again = film(head), film(build_head("anny", 0))
    for (frame, points, irises), (same_frame, same_points, _) in zip(first, again, strict=True):
        assert frame.shape == (64, 64, 3) and frame.std() > 20
        assert frame.tobytes() == same_frame.tobytes() and (points == same_points).all()
        eyes = points[[*range(42, 48)]], points[[*range(36, 42)]]
        for iris, eye in zip(irises, eyes, strict=True):
            assert (eye.min(0) - 1 < iris).all() and (iris < eye.max(0) + 1).all(), (
                "between the corners, under the lids"
            )
    assert (first[0][0] != first[1][0]).any(), "grain differs from frame to frame"


def test_sentences_belong_to_one_split_and_cover_english():
    from flowportrait.world.sentences import draw_sentence, split_of

    rng = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        assert {split_of(draw_sentence(rng, split)) for _ in range(30)} == {split}


@pytest.mark.skipif(speech.which("flite") is None, reason="flite is not installed")
def test_the_words_of_the_sentences_use_every_phone():
    from flowportrait.world import sentences

    parts = [
        getattr(sentences, f"_{name}")
        for name in ("WHO", "DID", "WHAT", "WHEN", "ASKED", "TASK", "FIRST")
    ]
    text = ". ".join(words for part in parts for words in part)
    _, _, phones = speech.say(text, speech.Voice("flite", "slt", 0.3, None))
    assert set(VISEMES_OF) == {phone.name for phone in phones}


def test_a_killed_worker_costs_no_clip_and_changes_no_byte(tmp_path, monkeypatch, head):
    """One of two workers is killed as soon as a clip is there; the next run goes on and ends as one
    worker alone.
    """
    voice = tmp_path / "voice"
    voice.mkdir()
    for name in ("now", "two"):
        with wave.open(str(voice / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes((np.sin(np.arange(8_000)) * 9_000).astype("<i2").tobytes())
        (voice / f"{name}.txt").write_text(name)
    settings = Settings(size_px=64, voice=str(voice), identities=2)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    made = []

    def kill_one(done: int, total: int) -> None:
        made.append(done)
        for process in multiprocessing.active_children()[:1]:
            os.kill(process.pid, signal.SIGKILL)

    with pytest.raises(
        DataError,
        match="a worker was killed, perhaps for lack of memory; run the command again to resume",
    ):
        render_set(killed, settings, clips=6, workers=2, progress=kill_one)
    kept = [json.loads(line)["key"] for line in (killed / "clips.jsonl").read_text().splitlines()]
    assert 0 < len(kept) == len(made) < 6, "what is finished is known, and nothing else"
    dates = {key: (killed / f"{key}.mp4").stat().st_mtime_ns for key in kept}
    (killed / ".anny_00001_2.123.part.npz").write_bytes(b"what a killed worker leaves behind")
    build = lru_cache(sets._head.__wrapped__)
    monkeypatch.setattr(sets, "_head", lambda rig, seed: build(rig, seed) if seed else head)
    records = render_set(killed, settings, clips=2)
    assert dates == {key: (killed / f"{key}.mp4").stat().st_mtime_ns for key in kept}, (
        "none is made again"
    )
    assert not list(killed.glob(".*"))
    assert records == render_set(whole, settings, clips=2)
    for record in records:
        for suffix in (".mp4", ".npz"):
            one, two = (
                (folder / f"{record['key']}{suffix}").read_bytes() for folder in (killed, whole)
            )
            assert one == two, record["key"] + suffix


@pytest.mark.skipif(speech.which("flite") is None, reason="flite is not installed")
def test_flite_tells_its_phones():
    voice = speech.Voice("flite", "slt", 1.0, 180.0)
    samples, rate, phones = speech.say("Please bring a map.", voice)
    assert (
        " ".join(phone.name for phone in phones if phone.name != "pau")
        == "p l iy z b r ih ng ax m ae p"
    )
    assert phones[0].start_s == 0 and 0.8 < phones[-1].start_s < len(samples) / rate


@pytest.mark.skipif(speech.espeak_library() is None, reason="espeak-ng is not installed")
def test_espeak_tells_its_phones():
    voice = speech.Voice("espeak-ng", "en-us+f2", 160, 50)
    samples, rate, phones = speech.say("Please bring a map.", voice)
    names = [phone.name for phone in phones if phone.name != "pau"]
    assert names[:4] == ["p", "l", "iy", "z"] and names[-1] == "p" and phones == sorted(phones)
    assert phones[-1].start_s < len(samples) / rate


@pytest.mark.skipif(speech.which("festival") is None, reason="Festival is not installed")
def test_festival_tells_its_phones():
    voice = speech.Voice("festival", "ked_diphone", 1.0, 110.0)
    samples, rate, phones = speech.say('Please bring the "map".', voice)
    assert (
        " ".join(phone.name for phone in phones if phone.name != "pau")
        == "p l iy z b r ih ng dh ax m ae p"
    )
    assert phones[0].start_s == 0 and 0.8 < phones[-1].start_s < len(samples) / rate
    assert np.abs(samples).max() > 0.1

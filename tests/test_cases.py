"""Odd files of real people, through every command that reads them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cases import CASES, FOLDER, VIDEOS, shift_s

from flowportrait import cli, media
from flowportrait.files import sha256_of
from flowportrait.records import ManifestRow, Score, read_jsonl, write_jsonl
from flowportrait.study import results

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="../shared/cases is not there")


@pytest.fixture
def folder(tmp_path):
    """The videos, with a manifest."""
    for case in VIDEOS:
        shutil.copy(FOLDER / case.name, tmp_path / case.name)
    facts = {
        "num_frames": 48,
        "fps": 24.0,
        "size_px": 128,
        "sample_rate_hz": 48_000,
        "split": "held_out",
    }
    facts |= {"identity": "a", "voice": "a", "text": ""}
    write_jsonl(
        tmp_path / "manifest.jsonl", [ManifestRow(id=c.name, video=c.name, **facts) for c in VIDEOS]
    )
    return tmp_path


@pytest.mark.parametrize("case", VIDEOS, ids=lambda case: case.name)
def test_pictures_are_those_of_the_clean_film(case):
    clean, seen = (
        np.stack(list(media.read_frames(FOLDER / name, fps=24))) for name in (case.like, case.name)
    )
    assert seen.shape == clean.shape
    seen = seen[:, ::-1, ::-1] if case.half_turn else seen
    assert np.abs(seen.astype(int) - clean).mean() < 4


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sound_is_that_of_the_clean_film(case):
    clean, heard = (media.read_audio(FOLDER / name) for name in (case.like, case.name))
    assert abs(shift_s(heard, clean)) < 0.5 / 24
    assert abs(heard.duration_s - clean.duration_s) < 0.5 / 24
    assert bool(heard.warnings) == (case.name == "antiphase.wav")


def test_scores_are_those_of_the_clean_film(tmp_path):
    out = tmp_path / "s.jsonl"
    assert cli.run(["score", str(FOLDER), "--scorers", "sync-small,sharpness", "-o", str(out)]) == 0
    rows = {(Path(row.clip).name, row.scorer): row for row in read_jsonl(out, Score)}
    assert not any(row.reason for row in rows.values())
    for case in VIDEOS:
        found, clean = (rows[name, "sync-small"] for name in (case.name, case.like))
        assert found.value == pytest.approx(clean.value, abs=0.05), case.name
        assert found.parts["offset"] == clean.parts["offset"], case.name
        assert any("upside down" in line for line in found.warnings) == case.half_turn


def test_a_truth_is_read_like_the_clip(tmp_path, folder, capsys):
    for name in ("made", "true"):
        (tmp_path / name).mkdir()
    for case in VIDEOS:
        shutil.copy(FOLDER / case.like, tmp_path / "made" / f"{Path(case.name).stem}.mp4")
        (folder / case.name).rename(tmp_path / "true" / case.name)
    made, true = tmp_path / "made", tmp_path / "true"
    arguments = [
        "evaluate",
        str(made),
        "--truth",
        str(true),
        "--scorers",
        "ssim",
        "--sets",
        "",
        "-o",
        str(tmp_path / "e"),
    ]
    assert cli.run(arguments) == 0
    values = {
        Path(row.clip).stem: row.value for row in read_jsonl(tmp_path / "e" / "scores.jsonl", Score)
    }
    for case in VIDEOS:
        assert values[Path(case.name).stem] > (0.1 if case.half_turn else 0.85), case.name
    said = capsys.readouterr().err
    assert "phone_rotated.mp4: its truth is rotated relative to it by 180 degrees" in said


def test_a_study_takes_all_of_them(tmp_path, capsys):
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
        for case in VIDEOS:
            shutil.copy(FOLDER / case.name, tmp_path / side)
    versions = [f"--versions={side}={tmp_path / side}" for side in ("a", "b")]
    out = tmp_path / "study"
    assert cli.run(["study", "create", str(out), *versions, "--raters", "anna,ben"]) == 0
    said = capsys.readouterr().err
    assert said.count("coded anew") == 2 * sum(not case.playable for case in VIDEOS)
    copies = {sha256_of(path): path for path in (out / "media").iterdir()}
    clips = results.load(out).facts.clips
    assert len(clips) == 2 * len(VIDEOS)
    for clip in clips:
        case = next(case for case in VIDEOS if case.name == Path(clip.source).name)
        [copy] = [copies[digest] for digest in clip.digests if digest in copies]
        clean = media.read_audio(FOLDER / case.like)
        assert abs(shift_s(media.read_audio(copy), clean)) < 0.5 / 24, case.name
        assert next(media.read_frames(copy)).shape == (128, 128, 3)


def test_generate_hears_them(tmp_path):
    from flowportrait.generate import load

    pipeline = load("tiny")
    portrait = Path(media.__file__).parent / "samples" / "portrait.png"
    for case in CASES:
        result = pipeline.generate(portrait, FOLDER / case.name, evaluations=1)
        clean = media.read_audio(FOLDER / case.like)
        assert abs(result.num_frames - media.frames_in(clean.duration_s)) <= 1, case.name
        assert bool(result.warnings) == (case.name == "antiphase.wav")


def test_a_dataset_of_them_is_generated_and_encoded(folder, tmp_path, capsys):
    made, shards = tmp_path / "made", tmp_path / "shards"
    command = ["generate", str(folder), "-o", str(made), "--evaluations", "1", "--size", "128"]
    assert cli.run(command) == 0
    assert sorted(row.id for row in read_jsonl(made / "manifest.jsonl", ManifestRow)) == sorted(
        c.name for c in VIDEOS
    )
    few = ["--portraits", "1", "--longest", "1"]  # of what is read, which is all
    assert cli.run(["encode", str(folder), "-o", str(shards), *few]) == 0
    assert "left out" not in capsys.readouterr().err


def test_prepare_finds_nothing_wrong_with_them(folder, tmp_path):
    settings = [
        "faces.detector_settings.side_px=160",
        "faces.min_face_px=32",
        "crop.min_side_px=48",
    ]
    settings += ["speaker.network=none", "clips.min_s=1"]
    out = tmp_path / "prepared"
    arguments = ["prepare", str(folder), "-o", str(out), "--workers", "1"]
    (folder / "manifest.jsonl").unlink()
    assert cli.run([*arguments, *(part for pair in settings for part in ("--set", pair))]) == 0
    rows = [
        json.loads(line) for path in out.glob("*.jsonl") for line in path.read_text().splitlines()
    ]
    sources = {Path(row["key"]).name: row for row in rows if "dropped" in row}
    assert sorted(sources) == sorted(case.name for case in VIDEOS)
    assert not any(row["notes"] for row in sources.values())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_judges_hear_what_is_scored(case):
    pytest.importorskip("openai", reason="the extra 'judges' is not installed")
    from flowportrait.scoring.judges.backends.openai import _wav

    def heard(name):
        return media.Sound(
            np.frombuffer(_wav(FOLDER / name)[44:], "<i2").astype(np.float32) / 32768, 16_000
        )

    assert abs(shift_s(heard(case.name), heard(case.like))) < 0.5 / 24

"""The store: nothing lost, nothing doubled, nothing told; and what it refuses."""

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from simulated_raters import QUALITY, answer, simulate, versions_of

from flowportrait import cli, media
from flowportrait.errors import DataError, MediaError, StudyRefused
from flowportrait.study.answers import RaterAnswer, covered_s
from flowportrait.study.blind import blind_copy
from flowportrait.study.build import create
from flowportrait.study.results import load
from flowportrait.study.store import DATABASE, Study
from flowportrait.study.tasks import StudyPlan


def first(study):
    token = study.raters()[0].token
    task = study.next_task(token)
    return token, task, answer(task, {item.id: float(-k) for k, item in enumerate(task.items)})


def changed(said: RaterAnswer, **values) -> RaterAnswer:
    return RaterAnswer.model_validate({**said.model_dump(), **values})


def refused(code, study, token, task_id, said):
    with pytest.raises(StudyRefused) as caught:
        study.submit(token, task_id, said)
    assert caught.value.code == code and "\n" not in str(caught.value)
    assert not study.history(token, task_id)


# -------------------------------------------------------------------------------------------
# blindness


def test_what_a_rater_gets_names_nothing(study, folders):
    secrets = [*QUALITY, "clip0", "generator", "flowportrait", str(folders)]
    for rater in study.raters():
        for task in study.tasks(rater.token):
            shown = json.dumps([task.id, task.training, [vars(item) for item in task.items]])
            names = [study.media(rater.token, item.id).name for item in task.items]
            assert not any(secret in shown + " ".join(names) for secret in secrets)
    for path in (study.directory / "media").iterdir():
        data = path.read_bytes()
        assert not any(secret.encode() in data for secret in [*secrets, "x264", "Lavf"])
        assert path.stat().st_mtime == 0
        with av.open(str(path)) as container:
            assert not {"title", "artist", "comment", "description", "encoder"} & set(
                container.metadata
            )


def test_a_blind_copy_shows_and_sounds_the_same(study):
    for source in study.sources()[:4]:
        copies = [p for p in (study.directory / "media").iterdir() if _sha(p) in source.digests]
        assert len(copies) == 1
        for a, b in zip(
            media.read_frames(source.source), media.read_frames(copies[0]), strict=True
        ):
            assert np.array_equal(a, b)
        assert np.array_equal(
            media.read_audio(source.source).samples, media.read_audio(copies[0]).samples
        )


def _sha(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_hidden_repeat_looks_like_any_set(study):
    for rater in study.raters():
        tasks = study.tasks(rater.token)
        assert [t.number for t in tasks] == list(range(1, 8)) and [t.training for t in tasks] == [
            True
        ] + [False] * 6
        ids = [item.id for task in tasks for item in task.items]
        assert len(ids) == len(set(ids))
        files = [
            tuple(sorted(study.media(rater.token, item.id).name for item in task.items))
            for task in tasks
        ]
        assert len(set(files)) == 6


def test_a_copied_folder_is_a_whole_study(study, tmp_path):
    import shutil

    simulate(study)
    moved = shutil.copytree(study.directory, tmp_path / "elsewhere")
    shutil.rmtree(study.directory)
    copy = Study(moved)
    token = copy.raters()[0].token
    assert copy.next_task(token) is None and len(load(moved).rankings) == 18
    assert copy.media(token, copy.tasks(token)[0].items[0].id).is_file()


# ---------------------------------------------------------------------------------------------
# answers


def test_sent_twice_is_kept_once_and_changed_replaces(study):
    token, task, said = first(study)
    assert [study.submit(token, task.id, said).state for _ in range(3)] == [
        "new",
        "unchanged",
        "unchanged",
    ]
    item = task.items[0].id
    other = changed(
        said, scores={**said.scores, item: {"lip_sync": 1, "expressiveness": 1, "motion": 1}}
    )
    assert study.submit(token, task.id, other).state == "replaced"
    assert [a.scores[item]["lip_sync"] for _, a in study.history(token, task.id)] == [3, 1]
    assert study.rater(token).done == 1 and study.task(token, task.id).answer == other
    assert study.submit(token, task.id, said).state == "replaced"  # back to the first one


def test_the_newest_answer_counts_and_training_does_not(study):
    simulate(study)
    token = study.raters()[0].token
    task = study.tasks(token)[1]
    low = {item.id: {"lip_sync": 1, "expressiveness": 1, "motion": 1} for item in task.items}
    study.submit(token, task.id, changed(task.answer, scores=low))
    ratings, rankings = study.records()
    assert len(ratings) == 3 * 6 * 9 and len(rankings) == 18
    mine = {item.id for item in task.items}
    assert {r.score for r in ratings if r.item in mine} == {1}
    names = versions_of(study, token, task)
    assert {r.version for r in ratings if r.item in mine} == set(names.values())


@pytest.mark.parametrize("score", [0, 6, 3.5, "4", None, True])
def test_other_scores_are_refused(study, score):
    token, task, said = first(study)
    body = said.model_dump()
    body["scores"][task.items[0].id]["motion"] = score
    with pytest.raises(StudyRefused) as caught:
        RaterAnswer.read(json.dumps(body))
    assert caught.value.code == "bad_rating" and "motion" in str(caught.value)


def test_incomplete_and_foreign_answers_are_refused(study):
    token, task, said = first(study)
    item = task.items[0].id
    missing = {other: scores for other, scores in said.scores.items() if other != item}
    refused("bad_rating", study, token, task.id, changed(said, scores=missing))
    partial = {**said.scores, item: {"lip_sync": 3}}
    refused("bad_rating", study, token, task.id, changed(said, scores=partial))
    refused(
        "unknown_item",
        study,
        token,
        task.id,
        changed(said, scores={**said.scores, "none": said.scores[item]}),
    )
    refused("bad_ranking", study, token, task.id, changed(said, groups=[["none"]]))
    refused("bad_ranking", study, token, task.id, changed(said, groups=[[item], [item]]))
    refused("bad_ranking", study, token, task.id, changed(said, groups=[[item], []]))
    refused("bad_ranking", study, token, task.id, changed(said, between=[">"]))
    bob = study.raters()[1].token
    for call in (lambda: study.submit(bob, task.id, said), lambda: study.task(bob, task.id)):
        with pytest.raises(StudyRefused, match="none of yours"):
            call()
    with pytest.raises(StudyRefused, match="no such clip"):
        study.media(bob, item)
    with pytest.raises(StudyRefused, match="no rater"):
        study.next_task("guess")


def test_partial_orders_and_ties_are_taken(study):
    token, task, said = first(study)
    a, b, _ = (item.id for item in task.items)
    assert study.submit(token, task.id, changed(said, groups=[[a, b]])).state == "new"
    assert study.submit(token, task.id, changed(said, groups=[])).state == "replaced"
    assert (
        study.submit(token, task.id, changed(said, groups=[[b], [a]], between=[">="])).state
        == "replaced"
    )


def test_clips_have_to_be_watched_to_their_end(study):
    token, task, said = first(study)
    item = task.items[1]
    half = item.duration_s / 2
    for spans in (
        [],
        [(0, half)],
        [(0, half), (0, half), (0.1, half)],
        [(half, item.duration_s)],
        [(5, 9)],
    ):
        refused(
            "unwatched",
            study,
            token,
            task.id,
            changed(said, played={**said.played, item.id: spans}),
        )
    pieces = [(half - 0.2, item.duration_s - 0.1), (0, half)]
    assert (
        study.submit(token, task.id, changed(said, played={**said.played, item.id: pieces})).state
        == "new"
    )
    # What was watched once need not be watched again to change a score.
    assert study.submit(token, task.id, changed(said, played={}, groups=[])).state == "replaced"


def test_seconds_covered_count_once():
    assert covered_s(((0, 2), (1, 3), (2.5, 2.6), (9, 12)), 10) == pytest.approx(4)


# ------------------------------------------------------------------------------------------------
# faults


def _write(directory, number, rounds):
    study = Study(directory)
    token = study.raters()[number].token
    for _ in range(rounds):
        for task in study.tasks(token):
            study.submit(
                token, task.id, answer(task, {i.id: float(k) for k, i in enumerate(task.items)})
            )
            flipped = answer(task, {i.id: float(-k) for k, i in enumerate(task.items)})
            study.submit(token, task.id, flipped)


def test_several_processes_write_at_the_same_time(study):
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write, args=(study.directory, n, 2)) for n in (0, 1, 0)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert [r.done for r in study.raters()] == [7, 7, 0]
    assert len(load(study.directory).rankings) == 2 * 6
    token = study.raters()[1].token
    assert all(len(study.history(token, task.id)) == 4 for task in study.tasks(token))


def test_what_was_acknowledged_survives_a_kill(study):
    code = (
        "import sys; from simulated_raters import answer; from flowportrait.study.store import"
        " Study\nstudy = Study(sys.argv[1]); token = study.raters()[0].token\nwhile True:\n    for"
        " task in study.tasks(token):\n        for sign in (1, -1):\n            said ="
        " answer(task, {i.id: float(sign * k) for k, i in enumerate(task.items)})\n           "
        " print(study.submit(token, task.id, said).id, flush=True)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(study.directory)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    lines = [process.stdout.readline() for _ in range(20)]
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    acknowledged = [int(line) for line in [*lines, *process.stdout.read().splitlines()]]
    process.wait()
    with sqlite3.connect(study.directory / DATABASE) as db:
        kept = {number for (number,) in db.execute("SELECT id FROM answer")}
    db.close()
    assert set(acknowledged) <= kept and len(kept) - len(set(acknowledged)) <= 1
    assert Study(study.directory).rater(study.raters()[0].token).done == 7


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "text", "empty", "other version"])
def test_a_damaged_store_is_named(study, damage, capsys):
    simulate(study, raters=1)
    path = study.directory / DATABASE
    if damage == "other version":
        with sqlite3.connect(path) as db:
            db.execute("UPDATE facts SET value = '9' WHERE name = 'schema_version'")
        db.close()
    else:
        data = path.read_bytes()
        middle = len(data) // 2
        path.write_bytes(
            {"truncated": data[:middle], "text": b"not a database" * 99, "empty": b""}.get(
                damage, data[: middle - 8192] + b"\xff" * 16384 + data[middle + 8192 :]
            )
        )
    with pytest.raises(DataError, match="study"):
        Study(study.directory)
    assert cli.run(["study", "export", str(study.directory)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_cut_off_video_stops_the_making_and_leaves_nothing(folders, tmp_path):
    whole = (folders / "poor" / "clip0.mp4").read_bytes()
    for share in (0.3, 0.7, 0.97):
        for name in ("a", "b"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "clip0.mp4").write_bytes(whole)
        (tmp_path / "b" / "clip0.mp4").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(MediaError, match="b/clip0.mp4"):
            create(
                tmp_path / "new", {"a": tmp_path / "a", "b": tmp_path / "b"}, ["x"], StudyPlan(1, 1)
            )
        assert not list(tmp_path.glob("new*"))


def test_missing_videos_are_refused_or_listed(folders, tmp_path, capsys):
    import shutil

    for name in ("original", "mild"):
        shutil.copytree(folders / name, tmp_path / name)
    (tmp_path / "mild" / "clip2.mp4").unlink()
    (tmp_path / "original" / "clip4.mp4").rename(tmp_path / "original" / "other.mp4")
    command = [
        "study",
        "create",
        str(tmp_path / "s"),
        "--versions",
        f"o={tmp_path / 'original'}",
        f"m={tmp_path / 'mild'}",
    ]
    assert cli.run(command) == 2
    assert (
        "3 samples are incomplete: clip2: not in m; clip4: not in o; other: not in m"
        in capsys.readouterr().err
    )
    assert cli.run([*command, "--incomplete", "skip", "--json"]) == 0
    made = capsys.readouterr()
    assert json.loads(made.out.splitlines()[-1])["samples"] == 4 and made.err.count("left out") == 3


def test_versions_of_other_sizes_are_told(folders, tmp_path):
    (tmp_path / "small").mkdir()
    for path in (folders / "original").iterdir():
        clip = media.Clip(path)
        frames = clip.frames[:, ::2, ::2]
        media.write_video(
            tmp_path / "small" / path.name,
            frames,
            24,
            clip.sound.samples,
            48000,
            {},
            preset="ultrafast",
        )
    versions = {"a": folders / "original", "b": tmp_path / "small"}
    made = create(tmp_path / "study", versions, ["x"], StudyPlan(1, 1))
    assert "a 128x128 at 24 fps; b 64x64 at 24 fps" in made.warnings[0]


def _coded(path, video, audio, pixels="yuv420p"):
    """A short clip in another container and with other codecs."""
    kind = "mpeg" if path.suffix == ".mpg" else None
    with av.open(str(path), "w", format=kind) as writer:
        picture = writer.add_stream(video, rate=24)
        picture.width = picture.height = 64
        picture.pix_fmt = pixels
        sound = writer.add_stream(audio, rate=48000, layout="mono") if audio else None
        for number in range(24):
            frame = av.VideoFrame.from_ndarray(
                np.full((64, 64, 3), 5 * number, np.uint8), format="rgb24"
            )
            frame.pts, frame.time_base = number, Fraction(1, 24)
            writer.mux(picture.encode(frame.reformat(format=pixels)))
        writer.mux(picture.encode(None))
        if sound:
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 48000), np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = 48000, 0
            writer.mux(sound.encode(frame))
            writer.mux(sound.encode(None))


@pytest.mark.parametrize(
    ("name", "video", "audio", "why"),
    [
        ("reordered.mkv", "libx264", "aac", "it says not when its pictures are decoded"),
        ("old.mp4", "mpeg4", "aac", "video is mpeg4"),
        ("lossless.mkv", "libx264", "flac", "audio is flac"),
        ("vcd.mpg", "mpeg2video", "mp2", "video is mpeg2video"),
        ("browser.webm", "libvpx", "libopus", "video is vp8"),
        ("old.flv", "flv", "aac", "video is flv1"),
    ],
)
def test_what_browsers_do_not_play_is_coded_anew(tmp_path, name, video, audio, why):
    _coded(tmp_path / name, video, audio)
    found = blind_copy(tmp_path / name, tmp_path / "blind.mp4")
    assert found.anew == why and (found.width, found.height, found.fps) == (64, 64, 24)
    assert _playable(tmp_path / "blind.mp4") and found.duration_s == pytest.approx(1, abs=0.1)
    before, after = (
        np.stack(list(media.read_frames(tmp_path / file))) for file in (name, "blind.mp4")
    )
    assert before.shape == after.shape and np.abs(before.astype(int) - after).mean() < 2
    assert b"x264" not in (tmp_path / "blind.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "blind.mp4"])


def _playable(path):
    with av.open(str(path)) as reader:
        names = [stream.codec_context.name for stream in reader.streams]
        return names == ["h264", "aac"] and reader.streams.video[0].pix_fmt == "yuv420p"


def test_pixels_of_ten_bits_are_coded_anew(tmp_path):
    _coded(tmp_path / "ten.mp4", "libx264", "aac", "yuv420p10le")
    found = blind_copy(tmp_path / "ten.mp4", tmp_path / "blind.mp4")
    assert found.anew == "video is h264 in yuv420p10le" and _playable(tmp_path / "blind.mp4")


def test_without_sound_nothing_can_be_rated(tmp_path):
    _coded(tmp_path / "silent.mp4", "libx264", None)
    with pytest.raises(MediaError, match="has no sound"):
        blind_copy(tmp_path / "silent.mp4", tmp_path / "blind.mp4")


def test_a_clip_that_cannot_be_used_costs_its_sample_alone(folders, tmp_path, capsys):
    import shutil

    for name in ("original", "mild"):
        shutil.copytree(folders / name, tmp_path / name)
    (tmp_path / "mild" / "clip2.mp4").write_bytes(b"no video")
    command = ["study", "create", str(tmp_path / "s"), "--raters", "2", "--json"]
    command += ["--versions", f"o={tmp_path / 'original'}", f"m={tmp_path / 'mild'}"]
    assert cli.run(command) == 0
    made = capsys.readouterr()
    told = json.loads(made.out.splitlines()[-1])
    assert told["samples"] == 5 and made.err.count("left out") == 1
    assert "left out: clip2: " in made.err and "mild/clip2.mp4: cannot be read" in made.err
    assert len(list((tmp_path / "s" / "media").iterdir())) == 10
    # Fewer than the plan needs: one line that says which and why, and nothing is left behind.
    command[2] = str(tmp_path / "t")
    assert cli.run([*command, "--training", "5"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: training: 5") and "mild/clip2.mp4: cannot be read" in error
    assert not list(tmp_path.glob("t*"))


def test_a_web_video_is_copied_into_an_mp4(tmp_path):
    _coded(tmp_path / "clip.mov", "libx264", "aac")
    found = blind_copy(tmp_path / "clip.mov", tmp_path / "blind.mp4")
    assert (found.width, found.height, found.fps) == (
        64,
        64,
        24,
    ) and found.sha256 != found.source_sha256
    pairs = zip(
        media.read_frames(tmp_path / "clip.mov"),
        media.read_frames(tmp_path / "blind.mp4"),
        strict=True,
    )
    assert all(np.array_equal(a, b) for a, b in pairs)

"""`prepare` on films: what is kept, what is dropped and why, whatever breaks on the way."""

import json
import os
import signal
import time
from pathlib import Path

import av
import films
import numpy as np
import pytest
from films import PLUGGED, SETTINGS, film, noise, run

from flowportrait import cli, media, pretrained
from flowportrait.config import load_recipe
from flowportrait.errors import DataError
from flowportrait.prepare.dataset import prepare
from flowportrait.prepare.footage import probe
from flowportrait.prepare.footage_list import find_sources
from flowportrait.prepare.journal import PreparedSource
from flowportrait.prepare.settings import PrepareConfig, SourceFile, SplitConfig, split_of
from flowportrait.prepare.source import Preparer
from flowportrait.records import ManifestRow, read_jsonl

ROOT = Path(__file__).parents[2]


pytestmark = [pytest.mark.xdist_group("prepare"), pytest.mark.usefixtures("remembered_faces")]


def config(*overrides):
    return load_recipe(None, PrepareConfig, [*SETTINGS, *overrides])


def one(tmp_path, path, *overrides, **known):
    """The record of one source."""
    (tmp_path / "work").mkdir(exist_ok=True)
    (tmp_path / "clips").mkdir(exist_ok=True)
    source = SourceFile(path.name, path, **({"identity": "somebody"} | known))
    return Preparer(config(*overrides), tmp_path).prepare(source)


def reasons(record):
    return [
        (drop.reason, round(drop.start_s * 24), round(drop.end_s * 24)) for drop in record.dropped
    ]


def kept(record):
    return [(clip.start_frame, clip.start_frame + clip.num_frames) for clip in record.clips]


# ------------------------------------------------------------------------------------------ one
# source


def test_a_face_gone_for_more_than_a_second_splits_and_sound_stays_in_step(tmp_path):
    sound = noise(7)
    path = film(tmp_path / "a.mp4", [("a", 60, 90), ("", 32, 90), ("a", 76, 90)], sound=sound)
    record = one(tmp_path, path, "scenes.split=false")
    assert kept(record) == [(0, 57), (92, 168)]
    assert reasons(record) == [("no_face", 57, 92)]
    clip = record.clips[1]
    heard = media.read_audio(tmp_path / clip.video)
    expected = sound[92 * films.RATE // 24 :]
    assert heard.sample_rate == films.RATE and abs(len(heard.samples) - len(expected)) < 1024
    count = min(len(heard.samples), len(expected))
    found = np.fft.irfft(
        np.fft.rfft(heard.samples[:count]) * np.conj(np.fft.rfft(expected[:count]))
    )
    assert np.argmax(found) == 0
    assert np.corrcoef(heard.samples[:count], expected[:count])[0, 1] > 0.98
    frames = np.stack(list(media.read_frames(tmp_path / clip.video)))
    assert frames.shape == (76, clip.size_px, clip.size_px, 3)


def test_the_square_shows_what_the_source_shows_there(tmp_path):
    path = film(tmp_path / "a.mp4", [("a", 60, 90)])
    clip = one(tmp_path, path).clips[0]
    x, y, side = clip.square
    assert side >= clip.size_px == side // 16 * 16 and side >= 1.5 * clip.face_px - 1
    source, cut = next(media.read_frames(path)), next(media.read_frames(tmp_path / clip.video))
    step = (np.arange(clip.size_px) + 0.5) * side / clip.size_px
    near = source[y + step.astype(int)[:, None], x + step.astype(int)]
    assert np.abs(near.astype(int) - cut).mean() < 12


def test_a_cut_between_two_people_in_one_place_splits(tmp_path):
    shots = [("a", 60, 40), ("b", 60, 200), ("ab", 60, 90)]
    record = one(tmp_path, film(tmp_path / "a.mp4", shots))
    assert kept(record) == [(0, 60), (60, 120), (120, 180)] and not record.dropped


def test_short_stretches_and_long_ones(tmp_path):
    record = one(
        tmp_path, film(tmp_path / "a.mp4", [("a", 40, 40), ("b", 120, 200)]), "clips.max_s=3"
    )
    assert kept(record) == [(40, 100), (100, 160)] and reasons(record) == [("short", 0, 40)]


def test_small_faces(tmp_path):
    path = film(tmp_path / "a.mp4", [("a", 60, 90)])
    assert reasons(one(tmp_path, path, "faces.min_face_px=120")) == [("small_face", 0, 60)]
    assert reasons(one(tmp_path, path, "crop.min_side_px=155")) == [("small_face", 0, 60)]


@pytest.mark.parametrize("quarters", [1, 2])
def test_footage_upside_down_or_on_its_side_is_never_passed_as_good(tmp_path, quarters):
    """The pixels themselves are turned, with nothing in the file that says so."""
    frames = [np.rot90(frame, quarters) for frame in films.frames_of([("a", 60, 90)])]
    path = tmp_path / "a.mp4"
    media.write_video(path, frames, 24, noise(2.5), films.RATE, {}, preset="ultrafast")
    record = one(tmp_path, path)
    assert kept(record) == [] and reasons(record) == [("turned", 0, 60)]
    assert kept(one(tmp_path, path, "faces.max_turn_deg=180")) == [(0, 60)]


def test_the_papers_rule_for_test_clips_binds_held_out_people_only(tmp_path):
    path = film(tmp_path / "a.mp4", [("a", 130, 90)])
    held_out = ("split.held_out_share=1", "split.rule=paper")
    assert reasons(one(tmp_path, path, *held_out)) == [("not_for_test", 0, 130)]
    assert kept(one(tmp_path, path, *held_out, "split.test_min_face_px=60")) == [(0, 130)]
    assert reasons(
        one(tmp_path, path, *held_out, "split.test_min_face_px=60", "split.test_min_s=6")
    )
    assert kept(one(tmp_path, path, "split.rule=paper")) == [(0, 130)]


def test_annotated_directions(tmp_path):
    path = film(tmp_path / "a.mp4", [("a", 60, 90)])
    assert kept(one(tmp_path, path, direction="side")) == [(0, 60)]
    assert reasons(one(tmp_path, path, direction="back")) == [("direction", 0, 60)]


def odd_files(tmp_path):
    """name -> (file, what becomes of it)."""
    shots = [("a", 96, 90)]
    whole = film(tmp_path / "whole.mp4", shots).read_bytes()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video at all\n" * 100)
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "head.mp4").write_bytes(whole[:2000])
    films.uneven_film(tmp_path / "mute.mp4", np.arange(96) / 24, films.frames_of(shots), 0)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=films.RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(noise(3)[None], format="fltp", layout="mono")
        frame.sample_rate = films.RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    film(tmp_path / "silent.mp4", shots, sound=np.zeros(4 * films.RATE, np.float32))
    return {
        "whole": "kept",
        "empty": "unreadable",
        "text": "unreadable",
        "head": "unreadable",
        "mute": "no_sound",
        "sound": "no_picture",
        "silent": "silent",
    }


def test_odd_files_have_their_reasons(tmp_path):
    for name, outcome in odd_files(tmp_path).items():
        record = one(tmp_path, tmp_path / f"{name}.mp4")
        found = {drop.reason for drop in record.dropped}
        assert found == ({outcome} - {"kept"}), name
        assert bool(record.clips) == (outcome == "kept") and (outcome == "kept" or record.notes), (
            name
        )
    cut = one(tmp_path, tmp_path / "cut.mp4", "clips.min_s=0.5")
    assert (
        len(cut.clips) == 1
        and {drop.reason for drop in cut.dropped} <= {"damaged", "no_sound"}
        and cut.notes
    )
    assert cut.duration_s == pytest.approx(4.0, abs=0.05)


def test_frames_at_uneven_times_are_taken_by_their_times(tmp_path):
    """Half a second a level of grey, at rates from 5 to 60 fps."""
    times = np.concatenate(
        [k / 2 + np.arange(n) / n / 2 for k, n in enumerate((3, 30, 5, 12, 24, 2))]
    )
    frames = [np.full((160, 240, 3), 40 * int(t * 2) + 10, np.uint8) for t in times]
    films.uneven_film(tmp_path / "vfr.mp4", times, frames, 3.0)
    seen = [int(frame.mean()) for frame in probe(tmp_path / "vfr.mp4").frames(24)]
    assert (
        seen == pytest.approx([40 * (i // 12) + 10 for i in range(len(seen))], abs=4)
        and len(seen) == 72
    )


def test_a_clock_that_jumps_ends_the_picture(tmp_path):
    times = np.arange(96) / 24 + np.where(np.arange(96) < 60, 0, 3600)
    films.uneven_film(tmp_path / "jump.mp4", times, films.frames_of([("a", 96, 90)]), 4.0)
    record = one(tmp_path, tmp_path / "jump.mp4")
    assert kept(record) == [(0, 60)] and "jumps" in record.notes[0]
    assert {drop.reason for drop in record.dropped} == {"damaged"}


def test_turned_films_stand_upright(tmp_path):
    path = tmp_path / "a.mp4"
    frames = np.zeros((24, 160, 240, 3), np.uint8)
    frames[:, :80, :120] = 255
    media.write_video(path, frames, 24, noise(1), films.RATE, {})
    films.turned(path)
    footage = probe(path)
    frame = next(footage.frames(24))
    assert frame.shape == (240, 160, 3) == (*footage.size_px[::-1], 3)
    assert frame[30, 120].min() > 200 and frame[30, 30].max() < 50 and frame[200, 120].max() < 50


def test_sound_that_begins_late_is_in_step_and_ends_a_clip(tmp_path):
    path = tmp_path / "late.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 240, 160, "yuv420p"
        audio = container.add_stream("aac", rate=films.RATE, layout="mono")
        for image in films.frames_of([("a", 120, 90)]):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(noise(3)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = films.RATE, films.RATE
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    sound = probe(path).sound(tmp_path)
    assert (
        sound.from_s == pytest.approx(1.0, abs=0.05)
        and np.abs(sound.samples[: films.RATE - 2048]).max() == 0
    )
    record = one(tmp_path, path)
    assert [drop.reason for drop in record.dropped] == ["no_sound", "no_sound"]
    assert 24 <= record.clips[0].start_frame <= 26 and kept(record)[0][1] in (95, 96, 97)


# ------------------------------------------------------------------------------------------ whole
# runs


def shown(folder):
    """What must not depend on how a run went."""
    rows = (folder / "manifest.jsonl").read_text()
    journal = {
        record.key: record for record in read_jsonl(folder / "journal.jsonl", PreparedSource)
    }
    return rows, [journal[key].model_dump(exclude={"computing_s"}) for key in sorted(journal)]


def test_a_folder_becomes_a_dataset(made):
    root, out, err = made
    rows = list(read_jsonl(root / "one" / "manifest.jsonl", ManifestRow))
    assert [row.num_frames for row in rows] == [60, 72, 60] and len({row.id for row in rows}) == 3
    assert {row.fps for row in rows} == {24.0} and {row.sample_rate_hz for row in rows} == {
        films.RATE
    }
    assert [row.identity for row in rows] == [row.voice for row in rows]
    assert sorted(p.name for p in (root / "one" / "clips").iterdir()) == sorted(
        Path(row.video).name for row in rows
    )
    summary = json.loads(out.splitlines()[-1])
    assert (summary["sources"], summary["sources_without_clips"], summary["ignored_files"]) == (
        7,
        4,
        1,
    )
    lost = sum(found["seconds"] for found in summary["dropped"].values())
    assert summary["seconds_in"] == pytest.approx(summary["seconds_out"] + lost, abs=1e-2)
    assert summary["dropped"]["no_face"]["seconds"] == pytest.approx(30 / 24, abs=0.2)
    counts = {name: found["sources"] for name, found in summary["dropped"].items()}
    assert counts == {"unreadable": 2, "crashed": 1, "language": 1, "no_face": 1}
    assert "warning: not checked: active speaker\n" in err and summary["not_checked"] == [
        "active speaker"
    ]
    report = (root / "one" / "report.md").read_text()
    assert "**Not checked: active speaker.**" in report and "empty.mp4: the file is empty" in report
    assert "films/loud.mp4: the process that read it died" in report


def test_killed_at_any_point_it_goes_on_to_the_same_result(made):
    root, _, _ = made
    out = root / "killed"
    for lines in (0, 3):
        process = run(root, root / "films", "-o", out, *PLUGGED, wait=False)
        journal = out / "journal.jsonl"
        while process.poll() is None and not (
            journal.exists() and journal.read_bytes().count(b"\n") >= lines
        ):
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL and not (out / "manifest.jsonl").exists()
    with (out / "journal.jsonl").open("a") as file:
        file.write('{"schema_version":1,"key":"films/go')
    code, said, err = run(root, root / "films", "-o", out, "--workers", "2", *PLUGGED)
    assert code == 0, err
    assert shown(out) == shown(root / "one") and " of them from before" in said
    assert not (out / "work").exists()


def test_a_changed_source_and_a_lost_clip_are_prepared_again(here, tmp_path):
    a, b = (film(tmp_path / f"{name}.mp4", [("a", 60, 90)]) for name in "ab")
    first = prepare([a], tmp_path / "out", config())
    assert (first.kept, len(first.records)) == (0, 1)
    film(a, [("a", 72, 90)])
    assert [row.num_frames for row in prepare([a], tmp_path / "out", config()).rows()] == [72]
    # Another source is added to what is there.
    both = prepare([b], tmp_path / "out", config())
    assert [row.num_frames for row in both.rows()] == [72, 60]
    (tmp_path / "out" / both.rows()[0].video).unlink()
    again = prepare([a, b], tmp_path / "out", config())
    assert again.kept == 1 and all((tmp_path / "out" / row.video).is_file() for row in again.rows())


def test_overlapping_speech(tmp_path, monkeypatch):
    from flowportrait.prepare.speech import Speakers
    from flowportrait.registry import PartTable

    class Finder:
        def __init__(self, overlap, speech):
            self.found = Speakers(
                [tuple(span) for span in speech], [tuple(span) for span in overlap]
            )

        def find(self, pcm):
            assert pcm.dtype == np.int16 and len(pcm) == pytest.approx(4 * 16_000, abs=700)
            return self.found

    monkeypatch.setattr(
        PartTable,
        "load",
        lambda self, name, load=PartTable.load: Finder if name == "f" else load(self, name),
    )
    path = film(tmp_path / "a.mp4", [("a", 48, 60), ("b", 48, 120)])

    def drops(overlap, speech, *more):
        settings = f"speech.overlap_settings={{overlap={overlap}, speech={speech}}}"
        return reasons(one(tmp_path, path, "speech.overlap=f", settings, *more))

    assert drops([[0.5, 0.69]], [[0, 4]]) == []
    assert drops([[0.5, 0.71]], [[0, 4]]) == [("overlap", 0, 48)]
    assert drops([[2.5, 2.6]], [[0, 2], [2.5, 3.0]]) == [("overlap", 48, 96)]
    assert drops([[2.5, 2.6]], [[0, 2], [2.5, 3.0]], "speech.overlap_share_of=clip") == []


def test_overlap_is_asked_where_its_weights_are_and_the_settings_say_so(tmp_path, monkeypatch):
    """`auto` never stands in a dataset: what it came to does, and decides what fits."""
    asked = PrepareConfig()
    assert asked.speech.overlap == "auto"
    monkeypatch.setattr(pretrained.Weights, "found", lambda self: None)
    without = asked.settled()
    assert without.speech.overlap == "none"
    named = PrepareConfig(speech={"overlap_settings": {"weights": "here.pt"}}).settled()
    assert named.speech.overlap == "pyannote"
    monkeypatch.setattr(pretrained.Weights, "found", lambda self: tmp_path / self.file)
    there = asked.settled()
    assert there.speech.overlap == "pyannote"
    off = PrepareConfig(speech={"overlap": "none"}, speaker={"network": "none"})
    assert off.settled() == off
    quiet = {"speaker": {"network": "none"}}
    assert PrepareConfig(**quiet).fingerprint != off.fingerprint
    monkeypatch.setattr(pretrained.Weights, "found", lambda self: None)
    assert PrepareConfig(**quiet).fingerprint == off.fingerprint


def test_all_of_a_person_is_on_one_side():
    settings = SplitConfig(held_out_share=0.3)
    names = [f"person {i}" for i in range(2000)]
    share = np.mean([split_of(name, settings) == "held_out" for name in names])
    assert share == pytest.approx(0.3, abs=0.04)
    assert [split_of(name, settings) for name in names] == [
        split_of(name, settings) for name in names
    ]
    assert {split_of(name, SplitConfig(held_out_share=0)) for name in names} == {"train"}


def test_identities_come_from_lists_names_or_folders(tmp_path):
    (tmp_path / "p1").mkdir()
    (tmp_path / "p1" / "id07-x.mp4").touch()
    write = [
        {
            "schema_version": 1,
            "video": "p1/id07-x.mp4",
            "identity": "Ann",
            "voice": "Bob",
            "text": "hello",
        }
    ]
    (tmp_path / "list.jsonl").write_text(
        "".join(json.dumps(row | {}) + "\n" for row in write).replace('"schema_version": 1, ', "")
    )
    (source,), _ = find_sources([tmp_path / "list.jsonl"], SplitConfig(), tmp_path / "d")
    assert (source.identity, source.voice, source.text) == ("Ann", "Bob", "hello")
    root = tmp_path.name
    for rule, name in (
        ("file", f"{root}/p1/id07-x.mp4"),
        ("folder", f"{root}/p1"),
        ("(id[0-9]+)", "id07"),
    ):
        (source,), _ = find_sources([tmp_path], SplitConfig(identity=rule), tmp_path / "d")
        assert source.identity == name == source.record("").voice


# ------------------------------------------------------------------------------------------
# settings


def test_the_papers_values():
    """Appendix B, §2.3 and §4.1."""
    settings = PrepareConfig()
    assert settings.speech.max_overlap == 0.10 and settings.speech.keep_language == "en"
    assert (settings.speaker.least, settings.speaker.confidence) == (0.5, "softmax")
    assert settings.directions == ("frontal", "side")
    assert (settings.faces.max_gap_s, settings.crop.scale, settings.crop.max_side_px) == (
        1.0,
        1.5,
        384,
    )
    assert (settings.split.test_min_s, settings.split.test_min_face_px) == (5.0, 512.0)
    recipe = load_recipe(ROOT / "recipes" / "prepare-paper.toml", PrepareConfig)
    assert (recipe.faces.detect_every, recipe.split.rule) == (1, "paper")
    assert recipe.speech.overlap == "pyannote"
    assert (recipe.speaker.threshold, recipe.speaker.max_pause_s) == (0.5, 0.0)


def test_without_a_speaker_network_the_first_words_say_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FLOWPORTRAIT_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.setattr(pretrained.Weights, "fetched", False)
    film(tmp_path / "a.mp4", [("a", 60, 90)])
    command = ["prepare", str(tmp_path / "a.mp4"), "-o", str(tmp_path / "out")]
    assert cli.run(command) == 2
    words = (
        "speaker network: weights not found; continue without it with --set speaker.network=none"
    )
    assert capsys.readouterr().err.startswith(f"error: {words}")
    more = [word for setting in SETTINGS for word in ("--set", setting)]
    assert cli.run([*command, *more]) == 0


# ------------------------------------------------------------------------------------------
# refusals


def test_what_cannot_be_meant_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWPORTRAIT_WEIGHTS", str(tmp_path / "weights"))
    film(tmp_path / "a.mp4", [("a", 60, 90)])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").touch()
    for words, line in (
        ("a.mp4 -o d --engine rey", "--engine: no 'rey'; did you mean 'ray'? allowed: local, ray"),
        ("a.mp4 -o d --part 3/2", "--part: got '3/2'; give number/count, such as 2/8"),
        (
            "b.mp4 -o d",
            "b.mp4: no such file or folder; give a video, a folder of videos or a list (.jsonl)",
        ),
        ("full -o d", "no video in full; give .mp4, "),
        (
            "a.mp4 -o full",
            "full: holds thesis.doc and is not a dataset of `prepare`; give an empty or a new"
            " folder",
        ),
        ("a.mp4 -o a.mp4", "a.mp4: is a file; give a folder"),
        ("a.mp4 -o d --set speech.overlap=senk", "overlap finder: no 'senk'; allowed: pyannote"),
        (
            "a.mp4 -o d --set faces.detector=buffalo",
            "face detector: no 'buffalo'; did you mean 'buffalo_sc'?",
        ),
        (
            "a.mp4 -o d --set faces.detector=buffalo_sc",
            "face detector buffalo_sc: no weights; InsightFace's weights are for non-commercial",
        ),
        (
            "a.mp4 -o d --set split.identity=(x",
            "split.identity: got '(x', not a valid regular expression",
        ),
        (
            "a.mp4 -o d --set speaker.weights=w.model --set speaker.network=ava",
            "speaker network: weights not found; continue without it with",
        ),
    ):
        quiet = [] if "speaker" in words else ["--set", "speaker.network=none"]
        assert cli.run(["prepare", *words.split(), *quiet]) == 2, words
        said = capsys.readouterr().err
        assert said.startswith(f"error: {line}") and said.count("\n") == 1, words
        assert ("--set speaker.network=none" in said) == ("speaker" in words), words
        assert not (tmp_path / "d").exists()


def test_other_settings_do_not_mix(here, tmp_path):
    a = film(tmp_path / "a.mp4", [("a", 60, 90)])
    prepare([a], tmp_path / "out", config())
    with pytest.raises(DataError, match="was made with other settings"):
        prepare([a], tmp_path / "out", config("clips.min_s=1"))


def test_a_dataset_is_written_by_one_run_at_a_time(here, tmp_path):
    import fcntl

    a = film(tmp_path / "a.mp4", [("a", 60, 90)])
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another run is writing to it"):
            prepare([a], tmp_path / "out", config())


def test_a_dataset_within_its_source_is_no_source(tmp_path):
    """Nor does a folder that may not be looked into vanish, nor a name that is no text stop a run
    halfway.
    """
    films = tmp_path / "films"
    (films / "dataset" / "clips").mkdir(parents=True)
    for path in (films / "a.mp4", films / "dataset" / "clips" / "b.mp4"):
        path.write_bytes(b"x")
    found, ignored = find_sources([films], SplitConfig(), films / "dataset")
    assert [source.key for source in found] == ["films/a.mp4"] and ignored == 0
    Path(os.fsdecode(bytes(films) + b"/z\xff.mp4")).write_bytes(b"x")
    with pytest.raises(
        DataError, match="the name is not valid UTF-8; rename the file, or leave it out"
    ):
        find_sources([films], SplitConfig(), films / "dataset")

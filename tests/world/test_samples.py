"""The shipped clips: read as training data, lips that follow the sound, faces that others find."""

from pathlib import Path

import numpy as np
import pytest

from flowportrait import media
from flowportrait.data.sources import RENDERED_SPLITS, load_sources
from flowportrait.faces.centerface import CenterFaceDetector
from flowportrait.world import portrait
from flowportrait.world.names import VISEME
from flowportrait.world.recordings import Recordings
from flowportrait.world.sets import Settings, Take, coverage

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "flowportrait" / "samples" / "world"
LANDMARKER = ROOT.parent / "shared" / "weights" / "face_landmarker.task"
MAX_MB = 3.0


def truth(record: dict) -> dict[str, np.ndarray]:
    with np.load(SAMPLES / f"{record['key']}.npz") as arrays:
        return {name: arrays[name].astype(float) for name in arrays.files}


def opening(rows: dict[str, np.ndarray]) -> np.ndarray:
    """Gap between the inner lips in eye distances, every frame."""
    at = rows["landmarks68"]
    gap = np.linalg.norm(at[:, [61, 62, 63]] - at[:, [67, 66, 65]], axis=-1).mean(1)
    return gap / np.linalg.norm(at[:, 36:42].mean(1) - at[:, 42:48].mean(1), axis=-1)


def test_they_are_small():
    assert sum(file.stat().st_size for file in SAMPLES.iterdir()) < MAX_MB * 1e6


def test_training_reads_every_clip_with_its_split(sample_records):
    read = {clip.key: clip for clip in load_sources(world=SAMPLES)}
    assert len(sample_records) == len(read) == 24
    for record in sample_records:
        clip = read[record["key"]]
        assert (
            clip.split == RENDERED_SPLITS[record["split"]]
            and clip.video.is_file()
            and clip.labels.is_file()
        )
    people = {record["identity"]["seed"]: record["split"] for record in sample_records}
    assert set(people.values()) == {"train", "validation", "test"}
    voices = {
        split: {read[r["key"]].voice for r in sample_records if r["split"] == split}
        for split in ("train", "test")
    }
    assert not voices["train"] & voices["test"]


def test_ground_truth_has_a_row_for_every_frame(sample_records):
    widths = {
        "viseme": (15,),
        "arkit": (52,),
        "blink": (),
        "pose": (6,),
        "gaze": (2,),
        "energy": (),
        "landmarks68": (68, 2),
        "irises": (2, 2),
    }
    for record in sample_records:
        rows = truth(record)
        assert {name: values.shape[1:] for name, values in rows.items()} == widths
        assert {len(values) for values in rows.values()} == {record["n"]}
        assert abs(record["n"] / record["fps"] - record["duration"]) <= 0.5 / record["fps"] + 1e-6
    clip = media.Clip(SAMPLES / f"{sample_records[0]['key']}.mp4")
    assert len(clip.frames) == sample_records[0]["n"] and clip.frames.shape[1:] == (128, 128, 3)
    assert abs(clip.sound.duration_s - sample_records[0]["duration"]) < 1 / media.FPS


def test_phones_and_visemes_are_covered(sample_records):
    counts = coverage(sample_records)
    assert all(counts["visemes"].values()), counts["visemes"]
    assert sum(map(bool, counts["phones"].values())) > 35


def test_the_mouth_opens_when_it_is_loud(sample_records):
    """Correlation of opening and loudness over all clips, by lag in frames, is largest at 0."""
    pairs = []
    for record in sample_records:
        rows = truth(record)
        pairs.append(
            [values - values.mean() for values in (opening(rows), np.clip(rows["energy"], 0, 1.5))]
        )

    def alignment(lag: int) -> float:
        cut = [
            (a[max(0, -lag) : len(a) - max(0, lag)], b[max(0, lag) : len(b) - max(0, -lag)])
            for a, b in pairs
        ]
        return float(np.corrcoef(*(np.concatenate(side) for side in zip(*cut, strict=True)))[0, 1])

    by_lag = {lag: alignment(lag) for lag in range(-6, 7)}
    assert max(by_lag, key=by_lag.get) == 0, by_lag
    assert by_lag[0] > 0.3 and by_lag[0] > by_lag[6] + 0.1 and by_lag[0] > by_lag[-6] + 0.1


def test_lips_are_closed_on_bilabials(sample_records):
    closed, vowels = [], []
    for record in sample_records:
        rows = truth(record)
        gaps = opening(rows)
        closed += gaps[rows["viseme"][:, VISEME["PP"]] > 0.8].tolist()
        vowels += gaps[rows["viseme"][:, VISEME["aa"]] > 0.5].tolist()
    assert len(closed) > 20 and np.mean(closed) < 0.04 and np.mean(vowels) > 3 * np.mean(closed)


def frames_of(records: list[dict], per_clip: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Some frames with their ground-truth landmarks."""
    chosen = []
    for record in records:
        frames, points = (
            media.Clip(SAMPLES / f"{record['key']}.mp4").frames,
            truth(record)["landmarks68"],
        )
        chosen += [
            (frames[i], points[i]) for i in np.linspace(3, len(frames) - 4, per_clip).astype(int)
        ]
    return chosen


def test_a_face_detector_finds_every_face(sample_records):
    detector = CenterFaceDetector()
    for frame, points in frames_of(sample_records[::2], per_clip=1):
        [face] = detector.detect(frame)
        nose = points[30]
        assert face.x0 < nose[0] < face.x1 and face.y0 < nose[1] < face.y1
        assert 0.5 < (face.x1 - face.x0) / np.ptp(points[:, 0]) < 1.8


@pytest.mark.skipif(
    not LANDMARKER.is_file(), reason="../shared/weights/face_landmarker.task is not there"
)
def test_landmarks_agree_with_an_independent_landmarker(sample_records, monkeypatch):
    """Eyes, tip of the nose and mouth, mean distance in eye distances."""
    pytest.importorskip("mediapipe", reason="the extra 'eval' is not installed")
    monkeypatch.syspath_prepend(ROOT)
    from bench.landmarks import FaceLandmarker

    frames, points = map(np.stack, zip(*frames_of(sample_records[::2], per_clip=1), strict=True))
    track = FaceLandmarker(LANDMARKER).track(frames)
    assert track.valid.mean() > 0.9
    compared = [30, *range(36, 68)]
    apart = np.linalg.norm(track.landmarks68[:, compared] - points[:, compared], axis=-1)
    eyes = np.linalg.norm(points[:, 36:42].mean(1) - points[:, 42:48].mean(1), axis=-1)
    assert np.nanmedian(apart.mean(1) / eyes) < 0.12


def test_the_sample_portrait_is_a_person_of_the_test_split(tmp_path):
    """As its README says: person 29; other processors may round single pixels otherwise."""
    out = tmp_path / "again.png"
    portrait.main(["29", str(out)])
    again, shipped = (
        media.read_portrait(path).astype(int) for path in (out, SAMPLES.parent / "portrait.png")
    )
    assert again.shape == (256, 256, 3) and np.abs(again - shipped).mean() < 0.5
    assert Take(Settings(), 29, 0, "anny").split == "test"


def test_a_portrait_goes_where_it_can(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        portrait.main(["29", str(tmp_path / "me.gif")])
    assert "give a name ending in .png or .jpg" in capsys.readouterr().err


@pytest.fixture
def recordings(tmp_path, sample_records) -> Path:
    """The sound of two samples with their words: one with times in GRID's ticks, one with a
    transcript only.
    """
    import shutil

    for name, record in zip(("timed", "plain"), sample_records, strict=False):
        shutil.copy(SAMPLES / f"{record['key']}.mp4", tmp_path / f"{name}.mp4")
    (tmp_path / "timed.align").write_text(
        "0 5000 sil\n5000 12500 bin\n12500 25000 blue\n25000 40000 sil\n"
    )
    (tmp_path / "plain.txt").write_text(sample_records[1]["text"])
    return tmp_path


def test_recordings_need_no_engine(recordings):
    speaker = Recordings(recordings)
    said = {}
    for split in ("train", "validation", "test"):
        for seed in range(4):
            utterance = speaker.utter(np.random.default_rng(seed), "f", split, 10)
            said[utterance.text] = utterance
    timed = said["bin blue"]
    assert [name for _, name in timed.phones] == ["pau", "b", "ih", "n", "b", "l", "uw", "pau"]
    starts = [start_s for start_s, _ in timed.phones]
    assert starts[1] == 0.2 and starts[4] == 0.5 and starts[-1] == 1.0 and starts == sorted(starts)
    [plain] = [utterance for text, utterance in said.items() if text != "bin blue"]
    assert plain.voice.engine == "recording" and len(plain.phones) > 8
    assert plain.phones[1].start_s > 0 and plain.phones[-1].start_s < plain.duration_s

"""Videos that cannot be scored are listed with their reason and stop nothing."""

import av
import numpy as np
import pytest

from flowportrait import cli, media
from flowportrait.clips import find_samples
from flowportrait.records import Score, read_jsonl
from flowportrait.scoring import Sample
from flowportrait.scoring.metrics.view import Unscorable, View

PLAIN = "ssim,sharpness,colour-drift"


def write(path, height=64, width=64, count=6, seed=0):
    """A short clip of noise that changes."""
    frames = np.random.default_rng(seed).integers(0, 255, (count, height, width, 3), dtype=np.uint8)
    media.write_video(path, frames, 24, np.zeros(count * 2000, np.float32), 48_000, {})


def cut_behind_its_head(path, whole):
    """A Matroska file that ends where its first cluster of frames begins: it opens and holds no
    frame.
    """
    with av.open(str(whole)) as reader, av.open(str(path), "w") as writer:
        copy = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(reader.streams.video[0]):
            if packet.dts is not None:
                packet.stream = copy
                writer.mux(packet)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"\x1f\x43\xb6\x75") + 16])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "made").mkdir()
    write(tmp_path / "made" / "good.mp4")
    whole = (tmp_path / "made" / "good.mp4").read_bytes()
    (tmp_path / "made" / "half.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "made" / "words.mp4").write_text("no video at all")
    cut_behind_its_head(tmp_path / "made" / "headless.mkv", tmp_path / "made" / "good.mp4")
    return tmp_path


def test_what_cannot_be_read_is_listed_and_the_rest_is_scored(folder):
    out = folder / "scores.jsonl"
    made = str(folder / "made")
    assert cli.run(["score", made, "--truth", made, "--scorers", PLAIN, "-o", str(out)]) == 0
    rows = list(read_jsonl(out, Score))
    assert len(rows) == 4 * 3
    assert {row.clip.rsplit("/", 1)[1] for row in rows if not row.reason} == {"good.mp4"}
    assert all(row.reason and np.isnan(row.value) for row in rows if "good" not in row.clip)


def test_a_video_without_frames_is_a_media_error(folder):
    with pytest.raises(media.MediaError, match="no frame can be decoded"):
        list(media.read_frames(folder / "made" / "headless.mkv"))


def test_a_truth_of_the_very_name_comes_before_one_of_another_kind(tmp_path):
    for name in ("a.mp4", "a.mkv"):
        for side in ("made", "true"):
            (tmp_path / side).mkdir(exist_ok=True)
            (tmp_path / side / name).write_bytes(b"video")
    samples = find_samples([tmp_path / "made"], tmp_path / "true")
    assert {sample.clip.path.name: sample.truth.path.name for sample in samples} == {
        "a.mp4": "a.mp4",
        "a.mkv": "a.mkv",
    }


def test_a_picture_too_small_for_raft_is_unscorable(tmp_path):
    pytest.importorskip("torchvision", reason="the extra 'scorers' is not installed")
    from flowportrait.scoring.metrics.jitter import RaftJitter

    write(tmp_path / "small.mp4", 96, 160)
    with pytest.raises(Unscorable, match="160x96 px; RAFT needs 121"):
        RaftJitter().read(View(Sample("small", media.Clip(tmp_path / "small.mp4"))))


def test_what_stands_beside_a_metrics_number_is_no_verdict(tmp_path, capsys):
    (tmp_path / "made").mkdir()
    write(tmp_path / "made" / "0.mp4")
    for index in range(1, 20):
        (tmp_path / "made" / f"{index}.mp4").write_bytes((tmp_path / "made" / "0.mp4").read_bytes())
    arguments = [
        "score",
        str(tmp_path / "made"),
        "--scorers",
        "colour-drift",
        "-o",
        str(tmp_path / "scores.jsonl"),
    ]
    assert cli.run(arguments) == 0
    assert "tells clips apart" not in capsys.readouterr().err

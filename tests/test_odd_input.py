"""What can hardly have been meant is said; names and kinds that people have are read."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from container_films import RATE, voice
from PIL import Image, features

from flowportrait import cli, colours, media, pictures
from flowportrait.errors import MediaError
from flowportrait.records import Score, read_jsonl

GOLDEN = Path(__file__).parent / "golden"


def write_tracks(path, tracks):
    """A sound file with these tracks, float32 [channels, s] each."""
    with av.open(str(path), "w") as out:
        streams = [
            out.add_stream("flac", rate=RATE, layout="mono" if len(t) == 1 else "stereo")
            for t in tracks
        ]
        for stream, samples in zip(streams, tracks, strict=True):
            layout = "mono" if len(samples) == 1 else "stereo"
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            size = stream.codec_context.frame_size or None
            for part in av.AudioResampler(stream.format.name, layout, RATE, size).resample(frame):
                out.mux(stream.encode(part))
            out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("mono", [True, False])
def test_channels_that_cancel_out_give_way_to_the_louder_one(tmp_path, mono):
    said = voice(1.0)
    path = write_tracks(tmp_path / "s.mka", [np.stack([-0.9 * said, said])])
    sound = media.read_audio(path, mono=mono)
    heard = media.to_mono(sound.samples)[0]
    assert np.corrcoef(heard[4800:-4800], said[4800 : len(heard) - 4800])[0, 1] > 0.99
    assert len(sound.warnings) == 1 and "right one alone is heard" in sound.warnings[0]
    assert np.abs(media.read_pcm(path, 16_000)).max() > 3000


def test_one_sided_stereo_is_mixed_as_ever(tmp_path):
    path = write_tracks(tmp_path / "s.mka", [np.stack([voice(1.0), np.zeros(RATE, np.float32)])])
    sound = media.read_audio(path)
    assert not sound.warnings and sound.samples.std() == pytest.approx(0.0707, rel=0.1)


def test_a_silent_track_beside_one_that_speaks(tmp_path):
    silent, speaks = np.zeros((1, RATE), np.float32), voice(1.0)[None]
    sound = media.read_audio(write_tracks(tmp_path / "s.mka", [silent, speaks]))
    assert len(sound.warnings) == 1 and "number 2 is not" in sound.warnings[0]


def speech(duration_s, level, seed):
    """Noise in syllables of 0.25 s."""
    samples = voice(duration_s, seed)
    return samples * level * (np.sin(2 * np.pi * 4 * np.arange(len(samples)) / RATE) > 0)


@pytest.mark.parametrize(("level", "said"), [(1.0, 0), (0.3, 0), (0.03, 1)])
def test_a_second_speaker_far_below_the_first(tmp_path, level, said):
    both = np.concatenate([speech(4.0, 1.0, 1), speech(3.0, level, 2)]).astype(np.float32)
    warnings = media.read_audio(write_tracks(tmp_path / "s.mka", [both[None]])).warnings
    assert len(warnings) == said and all("quieter than the rest" in line for line in warnings)


@pytest.mark.parametrize("level", [0.0, 1e-4, 9e-4])
def test_hiss_below_60_db_is_silence_to_a_model(tmp_path, level):
    rng = np.random.default_rng(0)
    hiss = (level * rng.uniform(-1, 1, RATE)).astype(np.float32)
    assert not media.heard(hiss, RATE, 16_000).any()
    sound = media.read_audio(write_tracks(tmp_path / "s.mka", [hiss[None]]))
    assert len(sound.warnings) == 1 and "its sound is silence" in sound.warnings[0]


def test_quiet_speech_is_heard(tmp_path):
    said = 0.02 * voice(1.0)
    heard = media.heard(np.stack([said, said], axis=1), RATE, 16_000)
    assert np.array_equal(heard, media.resample(said, RATE, 16_000)) and heard.any()


def test_a_dark_picture_is_called_underexposed():
    dark = np.random.default_rng(0).integers(0, 40, (64, 64, 3), dtype=np.uint8)
    assert len(media.exposure_warnings(dark)) == 1
    assert not media.exposure_warnings(dark + np.uint8(100))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif(tmp_path):
    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "p.avif")
    assert (
        np.abs(media.read_portrait(tmp_path / "p.avif")[10, 10].astype(int) - (200, 30, 30)).max()
        < 12
    )


def test_heic():
    pytest.importorskip("pi_heif", reason="the extra 'heic' is not installed")
    pixels = media.read_portrait(GOLDEN / "portrait.heic").astype(int)
    assert pixels.shape == (48, 64, 3)
    for (y, x), colour in (((5, 5), (200, 30, 30)), ((40, 60), (30, 60, 200))):
        assert np.abs(pixels[y, x] - colour).max() < 12


def test_heic_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(pictures, "_formats", lambda: ["JPEG", "PNG"])
    with pytest.raises(MediaError, match="a HEIC picture, .* pip install pi-heif"):
        media.read_portrait(GOLDEN / "portrait.heic")


@pytest.mark.parametrize("transfer", [colours.PQ, colours.HLG])
@pytest.mark.parametrize("level", [0, 20, 60, 120, 180, 220])
def test_greys_of_high_dynamic_range_keep_their_level(transfer, level):
    """Light of a screen of standard range, coded as high dynamic range at 203 nits of white, and
    read again.
    """
    light = (level / 255) ** 2.4
    known = colours._light(transfer).astype(np.float64)
    if transfer == colours.HLG:
        known = known**1.2 * 1000 / 203
    coded = int(np.abs(known - light).argmin())
    shown = colours.hdr_to_sdr(np.full((2, 2, 3), coded, np.uint16), transfer)
    assert np.abs(shown.astype(int) - level).max() <= 3


def test_highlights_stay_below_white_and_in_order():
    shown = colours.hdr_to_sdr(
        np.repeat(np.arange(0, 65536, 64, dtype=np.uint16)[None, :, None], 3, 2), colours.PQ
    )
    assert (np.diff(shown[0, :, 0].astype(int)) >= 0).all() and shown.max() == 255


def test_names_that_look_like_protocols(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures = np.zeros((24, 64, 64, 3), np.uint8)
    media.write_video("out:1.mp4", pictures, 24, voice(1.0), RATE, {})
    assert len(list(media.read_frames("out:1.mp4"))) == 24
    write_tracks(tmp_path / "s.mka", [voice(1.0)[None]]).rename("take:1.mka")
    assert media.read_audio("take:1.mka").duration_s == pytest.approx(1.0, abs=0.05)


def test_nobody_listening_is_no_failure():
    """As `flowportrait ... | head -0`: the reader of stdout is gone before anything is said."""
    reader, writer = os.pipe()
    os.close(reader)
    code = "import sys; sys.argv[1:] = ['--version']; from flowportrait.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writer)
    assert done.returncode == 0 and not done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p.mp4")
    reads = (media.read_audio, pictures.read_portrait, lambda path: media.Clip(path).facts)
    for read in reads:
        with pytest.raises(MediaError, match="is a pipe or a device; write it to a file"):
            read(tmp_path / "p.mp4")
    # A folder's scores go on without it.
    cli.run(["score", str(tmp_path), "--scorers", "sharpness", "-o", str(tmp_path / "s.jsonl")])
    [row] = read_jsonl(tmp_path / "s.jsonl", Score)
    assert "is a pipe or a device" in row.reason and not row.sha256


@pytest.mark.parametrize("name", ["s.mp3", "upload", "s.mp4"])
def test_sound_behind_a_cover_of_megabytes(tmp_path, name):
    """FFmpeg looks at the first megabyte, and then goes by the file's name."""
    with av.open(str(tmp_path / "plain.mp3"), "w", options={"id3v2_version": "0"}) as out:
        stream = out.add_stream("libmp3lame", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(voice(1.0)[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        size = stream.codec_context.frame_size
        for part in av.AudioResampler("fltp", "mono", RATE, size).resample(frame):
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    length = 3 << 20
    tag = b"ID3\4\0\0" + bytes(length >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(length)
    (tmp_path / name).write_bytes(tag + (tmp_path / "plain.mp3").read_bytes())
    heard = media.read_audio(tmp_path / name)
    assert np.array_equal(heard.samples, media.read_audio(tmp_path / "plain.mp3").samples)

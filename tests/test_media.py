"""Media: every kind of picture and sound in, mp4 out to the sample, nothing half-written."""

import io
import struct
import subprocess
import sys
import tracemalloc
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from flowportrait import media
from flowportrait.colours import NEUTRAL_GREY
from flowportrait.errors import MediaError

RED, GREEN, BLUE = (200, 30, 30), (30, 160, 40), (30, 40, 200)


def quarters(width=64, height=48) -> Image.Image:
    """Red upper left, green upper right, blue below: orientation and channels can be told apart."""
    image = Image.new("RGB", (width, height), BLUE)
    image.paste(RED, (0, 0, width // 2, height // 2))
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    return image


def assert_quarters(pixels: np.ndarray, tolerance=12) -> None:
    height, width = pixels.shape[:2]
    for colour, y, x in ((RED, 1 / 4, 1 / 4), (GREEN, 1 / 4, 3 / 4), (BLUE, 3 / 4, 1 / 2)):
        got = pixels[int(height * y), int(width * x)].astype(int)
        assert np.abs(got - colour).max() <= tolerance, (got, colour)


def voice(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Noise below 3.4 kHz, [s, channels]: no two moments are alike, so any shift shows."""
    rng = np.random.default_rng(seed)
    num_samples = round(seconds * rate)
    spectrum = rng.standard_normal((channels, num_samples // 2 + 1, 2)) @ [1, 1j]
    spectrum[:, np.fft.rfftfreq(num_samples, 1 / rate) > min(3400, 0.4 * rate)] = 0
    samples = np.fft.irfft(spectrum, num_samples, axis=1)
    return (0.3 * samples / samples.std() / 3).T.astype(np.float32)


def shift_of(heard: np.ndarray, said: np.ndarray) -> int:
    """By how many samples `heard` comes later than `said`."""
    length = 2 ** int(np.ceil(np.log2(len(heard) + len(said))))
    correlation = np.fft.irfft(np.fft.rfft(heard, length) * np.fft.rfft(said, length).conj())
    lag = int(correlation.argmax())
    return lag if lag < length // 2 else lag - length


def write_sound(
    path, samples: np.ndarray, rate: int, codec: str, sample_format: str, layout: str
) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.format = sample_format
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples.T), format="fltp", layout=layout
        )
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        converter = av.AudioResampler(format=sample_format, layout=layout, rate=rate)
        for part in (*converter.resample(frame), *converter.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


# ----------------------------------------------------------------------------------------------
# pictures


@pytest.mark.parametrize("orientation", range(1, 9))
def test_portrait_is_upright_whatever_the_camera_says(tmp_path, orientation):
    turned_back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    image = quarters()
    stored = image if turned_back is None else image.transpose(turned_back)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "p.jpg", exif=exif, quality=95)
    portrait = media.read_portrait(tmp_path / "p.jpg")
    assert portrait.shape == (48, 64, 3) and portrait.dtype == np.uint8
    assert_quarters(portrait)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "gif"])
def test_common_formats(tmp_path, suffix):
    quarters().save(tmp_path / f"p.{suffix}")
    assert_quarters(media.read_portrait(tmp_path / f"p.{suffix}"), tolerance=25)


def test_transparency_lies_on_grey(tmp_path):
    image = quarters().convert("RGBA")
    image.paste((255, 0, 255, 0), (0, 40, 64, 48))
    image.save(tmp_path / "p.png")
    portrait = media.read_portrait(tmp_path / "p.png")
    assert_quarters(portrait)
    assert tuple(portrait[44, 30]) == NEUTRAL_GREY


def test_palette_with_a_transparent_colour(tmp_path):
    image = quarters().quantize(8)
    image.save(tmp_path / "p.png", transparency=image.getpixel((30, 40)))
    portrait = media.read_portrait(tmp_path / "p.png")
    assert tuple(portrait[40, 30]) == NEUTRAL_GREY
    assert np.abs(portrait[10, 10].astype(int) - RED).max() < 12


def test_cmyk(tmp_path):
    quarters().convert("CMYK").save(tmp_path / "p.jpg", quality=95)
    assert_quarters(media.read_portrait(tmp_path / "p.jpg"), tolerance=20)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey(tmp_path, mode):
    quarters().convert("L").convert(mode).save(tmp_path / "p.png")
    portrait = media.read_portrait(tmp_path / "p.png")
    assert portrait.shape == (48, 64, 3)
    assert (portrait[..., 0] == portrait[..., 2]).all()


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_keeps_its_tones(tmp_path, suffix):
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (48, 1))
    Image.fromarray(ramp).save(tmp_path / f"p.{suffix}")
    portrait = media.read_portrait(tmp_path / f"p.{suffix}")
    assert np.abs(portrait[0, :, 0] - np.linspace(0, 255, 64)).max() <= 1


def test_float_tiff(tmp_path):
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "p.tiff")
    assert abs(int(media.read_portrait(tmp_path / "p.tiff")[0, 0, 0]) - 128) <= 1


def test_colour_profile_is_applied(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    quarters().save(tmp_path / "p.png", icc_profile=profile)
    assert_quarters(media.read_portrait(tmp_path / "p.png"))
    quarters().save(tmp_path / "q.png", icc_profile=b"no profile at all")
    assert_quarters(media.read_portrait(tmp_path / "q.png"))


def test_animation_gives_its_first_frame(tmp_path):
    quarters().save(
        tmp_path / "p.gif", save_all=True, append_images=[Image.new("RGB", (64, 48), GREEN)]
    )
    assert_quarters(media.read_portrait(tmp_path / "p.gif"), tolerance=25)


def test_huge_jpeg_is_bounded(tmp_path):
    quarters(12000, 9000).save(tmp_path / "p.jpg", quality=50)
    portrait = media.read_portrait(tmp_path / "p.jpg")
    assert max(portrait.shape) <= media.MAX_PORTRAIT_SIDE_PX
    assert_quarters(portrait, tolerance=20)


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (1, 300)])
def test_tiny_pictures_are_read(tmp_path, size):
    Image.new("RGB", size, RED).save(tmp_path / "p.png")
    assert media.read_portrait(tmp_path / "p.png").shape == (size[1], size[0], 3)


def test_decompression_bomb_is_refused(tmp_path):
    Image.new("1", (20000, 20000)).save(tmp_path / "p.png")
    with pytest.raises(MediaError, match="over 178 megapixels"):
        media.read_portrait(tmp_path / "p.png")


# -------------------------------------------------------------------------------------------------
# sound

WAVS = [("pcm_u8", "u8"), ("pcm_s16le", "s16"), ("pcm_s24le", "s32"), ("pcm_f32le", "flt")]


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
@pytest.mark.parametrize(("codec", "sample_format"), WAVS)
def test_wav_of_every_rate_and_depth(tmp_path, rate, codec, sample_format):
    said = voice(0.8, rate)
    write_sound(tmp_path / "s.wav", said, rate, codec, sample_format, "mono")
    sound = media.read_audio(tmp_path / "s.wav")
    assert sound.sample_rate == rate and sound.samples.dtype == np.float32
    assert len(sound.samples) == len(said)
    assert np.abs(sound.samples - said[:, 0]).max() < (0.01 if codec == "pcm_u8" else 1e-4)


@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("stereo", 2), ("5.1", 6)])
def test_channels(tmp_path, layout, channels):
    said = voice(0.6, 16000, channels)
    write_sound(tmp_path / "s.wav", said, 16000, "pcm_s16le", "s16", layout)
    assert media.read_audio(tmp_path / "s.wav").samples.ndim == 1
    both = media.read_audio(tmp_path / "s.wav", mono=False)
    assert both.samples.shape == (len(said), min(channels, 2))


@pytest.mark.parametrize(
    ("name", "codec", "sample_format"),
    [
        ("s.mp3", "libmp3lame", "fltp"),
        ("s.ogg", "libopus", "flt"),
        ("s.flac", "flac", "s16"),
        ("s.m4a", "aac", "fltp"),
    ],
)
@pytest.mark.parametrize("rate", [16000, 48000])
def test_compressed_sound_starts_where_it_started(tmp_path, name, codec, sample_format, rate):
    said = voice(1.5, rate)
    write_sound(tmp_path / name, said, rate, codec, sample_format, "mono")
    sound = media.read_audio(tmp_path / name, sample_rate=rate)
    assert abs(shift_of(sound.samples, said[:, 0])) <= rate // 1000
    assert abs(len(sound.samples) - len(said)) < 0.1 * rate


@pytest.mark.parametrize(
    ("from_hz", "to_hz"), [(48000, 16000), (44100, 16000), (8000, 16000), (11025, 48000)]
)
def test_resampling_keeps_time_and_length(from_hz, to_hz):
    said = voice(1.0, from_hz)[:, 0]
    heard = media.resample(said, from_hz, to_hz)
    assert len(heard) == round(len(said) * to_hz / from_hz)
    back = media.resample(heard, to_hz, from_hz)
    middle = slice(from_hz // 10, -from_hz // 10)
    assert shift_of(back, said) == 0
    assert np.abs(back[: len(said)][middle] - said[middle]).max() < 0.02


def test_resampling_stereo_keeps_the_channels_apart():
    said = voice(0.5, 44100, 2) * [1.0, 0.1]
    heard = media.resample(said.astype(np.float32), 44100, 16000)
    assert heard.shape == (8000, 2)
    assert heard[:, 0].std() > 5 * heard[:, 1].std()


# -------------------------------------------------------------------------------------------------
# video


@pytest.mark.parametrize(
    ("seconds", "frames"), [(0.0, 1), (0.5, 12), (1.0, 24), (1.02, 24), (1.03, 25), (60, 1440)]
)
def test_length_rule(seconds, frames):
    assert media.frames_in(seconds) == frames


def pictures(num_frames: int, size: int = 64) -> np.ndarray:
    """A colour gradient whose brightness counts the frames."""
    ramp = np.linspace(40, 120, size)
    image = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], 90.0), axis=-1)
    return (image[None] + np.arange(num_frames)[:, None, None, None]).astype(np.uint8)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 37000])
@pytest.mark.parametrize("channels", [1, 2])
def test_sound_keeps_its_place_in_the_video(tmp_path, rate, channels):
    said = voice(2.13, rate, channels)
    num_frames = media.frames_in(len(said) / rate)
    path = tmp_path / "v.mp4"
    audio = said[:, 0] if channels == 1 else said
    assert media.write_video(path, iter(pictures(num_frames)), 24, audio, rate, {}) == num_frames
    heard = media.read_audio(path, sample_rate=rate, mono=False).samples.reshape(-1, channels)
    assert shift_of(heard[:, 0], said[:, 0]) == 0
    assert 0 <= len(heard) / rate - len(said) / rate < 1 / 24
    frames = np.stack(list(media.read_frames(path)))
    assert len(frames) == num_frames
    assert np.abs(frames.astype(int) - pictures(num_frames)).mean() < 2


def test_mp4_says_what_it_is(tmp_path):
    path = tmp_path / "v.mp4"
    mark = media.synthetic_mark(model="tiny", seed=7, version="0.1.0")
    media.write_video(path, pictures(24), 24, voice(1, 16000)[:, 0], 16000, mark)
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert {key: container.metadata[key] for key in mark} == mark
        assert (
            "synthetic=true" in container.metadata["description"]
            and "seed 7" in container.metadata["comment"]
        )
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (video.average_rate, sound.codec_context.name) == (Fraction(24), "aac")
        assert abs(container.duration / av.time_base - 1) < 1 / 24
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_same_frames_give_the_same_bytes(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        media.write_video(
            tmp_path / name, pictures(24), 24, voice(1, 16000)[:, 0], 16000, {"title": "x"}
        )
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_nothing_half_written_stays(tmp_path):
    def breaking():
        yield from pictures(5)
        raise RuntimeError("the model failed")

    path = tmp_path / "v.mp4"
    with pytest.raises(RuntimeError, match="the model failed"):
        media.write_video(path, breaking(), 24, voice(1, 16000)[:, 0], 16000, {})
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_video_survives_a_failure(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"the earlier one")
    with pytest.raises(MediaError, match="5 frames for 1.00 s of sound; give 24"):
        media.write_video(path, pictures(5), 24, voice(1, 16000)[:, 0], 16000, {})
    assert path.read_bytes() == b"the earlier one"
    assert list(tmp_path.iterdir()) == [path]


def test_odd_sides_are_refused(tmp_path):
    with pytest.raises(MediaError, match="even sides"):
        media.write_video(
            tmp_path / "v.mp4", pictures(24, 63), 24, voice(1, 16000)[:, 0], 16000, {}
        )


def test_clip_reads_when_looked_at(tmp_path):
    path = tmp_path / "v.mp4"
    clip = media.Clip(path)
    media.write_video(path, pictures(24), 24, voice(1, 48000)[:, 0], 48000, {})
    assert clip.fps == 24 and clip.frames.shape == (24, 64, 64, 3)
    assert clip.sound.sample_rate == 48000 and abs(clip.sound.duration_s - 1) < 1 / 24


@pytest.mark.parametrize(("fps", "expected"), [(24, 24), (25, 25), (12, 12), (48, 48)])
def test_frames_on_another_clock(tmp_path, fps, expected):
    path = tmp_path / "v.mp4"
    media.write_video(path, pictures(24), 24, voice(1, 48000)[:, 0], 48000, {})
    brightness = [frame.mean() for frame in media.read_frames(path, fps=fps)]
    assert len(brightness) == expected
    assert (np.diff(brightness) >= -0.5).all()


def test_messages_are_one_line(tmp_path):
    (tmp_path / "p.jpg").write_bytes(io.BytesIO(b"\xff\xd8\xff\xe0 nothing").read())
    with pytest.raises(MediaError) as caught:
        media.read_portrait(tmp_path / "p.jpg")
    assert "\n" not in str(caught.value)


def long_flac(path, duration_s, says_so=True):
    """Stereo silence at 48 kHz: minutes of it are a few kilobytes."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=48000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 2 * 4800), np.int16), format="s16", layout="stereo"
        )
        frame.sample_rate = 48000
        for index in range(round(duration_s * 10)):
            frame.pts = index * 4800
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if not says_so:
        # The 36 bits of STREAMINFO that count the samples; 0 is "unknown".
        head = bytearray(path.read_bytes())
        head[21] &= 0xF0
        head[22:26] = bytes(4)
        path.write_bytes(head)


@pytest.mark.parametrize(
    "says_so, words", [(True, "600 s of sound; the maximum is 60 s"), (False, "over 60 s of sound")]
)
def test_no_more_sound_is_decoded_than_is_allowed(tmp_path, says_so, words):
    long_flac(tmp_path / "long.flac", 600, says_so)
    tracemalloc.start()
    with pytest.raises(MediaError, match=words):
        media.read_audio(tmp_path / "long.flac", mono=False, max_s=60.0)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < (1 << 20 if says_so else 30 << 20)  # 60 s are 23 MB, all of it would be 230


def test_sound_of_just_the_allowed_length_is_read(tmp_path):
    long_flac(tmp_path / "s.flac", 2.0)
    assert media.read_audio(tmp_path / "s.flac", max_s=2.0).duration_s == 2.0


def test_a_rate_beyond_reason_is_refused_where_length_is(tmp_path):
    with wave.open(str(tmp_path / "s.wav"), "wb") as file:
        file.setparams((1, 2, 400_000, 0, "NONE", ""))
        file.writeframes(bytes(800_000))
    with pytest.raises(MediaError, match="400000 Hz; the maximum is 192000 Hz"):
        media.read_audio(tmp_path / "s.wav", max_s=60.0)


def test_a_picture_that_says_it_is_too_large_is_not_decoded(tmp_path, monkeypatch):
    Image.new("RGB", (300, 200)).save(tmp_path / "p.png")
    assert media.read_portrait(tmp_path / "p.png", max_px=60_000).shape == (200, 300, 3)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    with pytest.raises(MediaError, match="downscale the picture"):
        media.read_portrait(tmp_path / "p.png", max_px=59_999)


@pytest.mark.skipif(
    sys.platform != "linux", reason="Linux tells the most memory that a process had"
)
def test_a_cover_picture_is_not_decoded_with_the_sound(tmp_path):
    """Memory outside of Python, so in a process of its own."""
    cover = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(cover, "PNG")
    long_flac(tmp_path / "s.flac", 2.0)
    flac = (tmp_path / "s.flac").read_bytes()
    head_end = 8 + int.from_bytes(flac[5:8], "big")
    picture = struct.pack(
        ">II9sIIIIII", 3, 9, b"image/png", 0, 9000, 9000, 24, 0, len(cover.getvalue())
    )
    picture += cover.getvalue()
    block = bytes([6]) + len(picture).to_bytes(3, "big") + picture
    (tmp_path / "cover.flac").write_bytes(flac[:head_end] + block + flac[head_end:])
    code = (
        "import sys; from pathlib import Path; from flowportrait import media;"
        " media.read_audio(sys.argv[1]);"
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    plain, covered = (
        int(
            subprocess.run(
                [sys.executable, "-c", code, tmp_path / name], capture_output=True, check=True
            ).stdout
        )
        for name in ("s.flac", "cover.flac")
    )
    assert covered < plain + 50_000  # KB; the picture has 243 MB


@pytest.mark.parametrize("kind", ["EPS", "PPM", "ICO"])
def test_only_the_promised_kinds_of_pictures_are_opened(tmp_path, kind):
    """Pillow would hand EPS to Ghostscript, whatever the file's name."""
    Image.new("RGB", (64, 64)).save(tmp_path / "me.png", kind)
    with pytest.raises(MediaError, match="not a supported picture format; give a JPEG, PNG"):
        media.read_portrait(tmp_path / "me.png")


@pytest.mark.parametrize("width", [112, 208])
def test_the_same_frames_are_the_same_file(tmp_path, width):
    """`prepare` promises bytes; x264 with its usual settings gives ten other files in twenty at
    such widths.
    """
    rng = np.random.default_rng(0)
    soft = rng.integers(0, 255, (1, 14, width // 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    frames = np.concatenate([np.roll(soft, 3 * step, 2) for step in range(48)])
    sound = np.zeros(2 * 48_000, np.float32)
    made = set()
    for _ in range(20):
        media.write_video(tmp_path / "a.mp4", frames, 24.0, sound, 48_000, {})
        made.add((tmp_path / "a.mp4").read_bytes())
    assert len(made) == 1

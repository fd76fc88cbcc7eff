"""Whatever a container says of time, turn and shape, pictures and sound come out as the source had
them."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from container_films import CODECS, HEIGHT, RATE, WIDTH, Film, index_of, write_film
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowportrait import media
from flowportrait.reader import read_pictures
from flowportrait.timeline import nearest_frames, timeline

TIMED = ("mp4", "mov", "mkv", "webm", "ts", "flv")  # whose every picture and sound has its own time
TURNED = ("mp4", "mov", "mkv")
_PIECE_S = 0.2


@st.composite
def films(draw, suffix):
    """What a container of this format can say."""
    rates = (24, 25, 30, 50, 60) if suffix == "mpg" else range(15, 61)
    fps = draw(st.sampled_from(rates))
    film = Film(suffix, fps, num_frames=fps + fps // 5 + 4)
    if suffix == "avi":  # it has no place for starts and gaps
        return film
    starts = st.floats(0, 2).map(lambda value: round(value, 3))
    start_s = draw(starts)
    if suffix == "mpg":  # its clock of pictures counts frames
        start_s = round(start_s * fps) / fps
    film = replace(film, picture_start_s=start_s)
    film = replace(film, sound_start_s=max(0.0, film.picture_start_s + draw(st.floats(-0.4, 0.4))))
    if draw(st.booleans()):
        length_s = draw(st.floats(0.1, 0.3))
        film = replace(film, gap_s=(0.5, 0.5 + length_s))
    if suffix in TIMED:
        film = replace(film, wobble=draw(st.sampled_from([0.0, 0.3])))
    if suffix in TURNED:
        aspect = draw(
            st.sampled_from([Fraction(1), Fraction(4, 3), Fraction(16, 11), Fraction(1, 2)])
        )
        film = replace(film, quarter_turns=draw(st.integers(0, 3)), aspect=aspect)
    if suffix in ("mp4", "mov") and draw(st.booleans()):
        film = replace(film, trim=4, picture_start_s=0.0, sound_start_s=0.0)
    return film


def place_of(piece: np.ndarray, sound: np.ndarray) -> int:
    """Where in `sound` a piece of the source is heard."""
    length = 2 ** int(np.ceil(np.log2(len(sound) + len(piece))))
    spectrum = np.fft.rfft(sound, length) * np.fft.rfft(piece, length).conj()
    return int(np.fft.irfft(spectrum)[: len(sound)].argmax())


@pytest.mark.parametrize("suffix", CODECS)
def test_time_turn_and_shape_are_those_of_the_source(suffix, tmp_path_factory):
    folder = tmp_path_factory.mktemp(suffix)

    @settings(
        max_examples=8,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(film=films(suffix))
    def holds(film):
        path = folder / f"film.{suffix}"
        said = write_film(path, film)
        half_s = 0.5 / film.fps
        pictures = list(read_pictures(path))
        assert [index_of(picture.pixels) for picture in pictures] == list(
            range(film.trim, film.num_frames)
        )
        starts = np.array([picture.start_s for picture in pictures])
        assert np.abs(starts - film.times_s[film.trim :] + film.times_s[film.trim]).max() < half_s
        across = film.quarter_turns % 2
        size = (
            (WIDTH, round(HEIGHT * film.aspect)) if across else (round(WIDTH * film.aspect), HEIGHT)
        )
        assert all(picture.pixels.shape[1::-1] == size for picture in pictures)
        assert all(top_is_up(picture.pixels) for picture in pictures)
        sound = media.read_audio(path, min_s=0.0)
        begins_s = film.sound_start_s - film.picture_start_s - film.times_s[film.trim]
        for at_s in (0.25, 0.45 - _PIECE_S, film.duration_s - _PIECE_S - 0.05):
            if at_s + begins_s < 0.01:
                continue
            piece = said[round(at_s * RATE) : round((at_s + _PIECE_S) * RATE)]
            heard_s = place_of(piece, sound.samples) / RATE
            assert abs(heard_s - at_s - begins_s) < half_s, (at_s, heard_s, begins_s)
        assert abs(timeline(path).fps - film.fps) < 0.06 * film.fps

    holds()


def top_is_up(pixels):
    """The bar lies at the upper left."""
    height, width = pixels.shape[:2]
    return pixels[height // 6, width // 4, 1] > 125 > pixels[height // 6, width * 3 // 4, 1]


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_mirror_is_undone(tmp_path, mirrored):
    """Front cameras write one."""
    import av
    from container_films import picture

    path = tmp_path / "m.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        if mirrored:
            stream.set_display_rotation(0, hflip=True)
        for index in range(3):
            stored = picture(index)[:, ::-1] if mirrored else picture(index)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert [index_of(frame) for frame in media.read_frames(path)] == [0, 1, 2]
    assert all(top_is_up(frame) for frame in media.read_frames(path))


@pytest.mark.parametrize("fps", [12, 24, 25, 30, 48])
@pytest.mark.parametrize("suffix", ["mp4", "avi"])
def test_one_rule_chooses_frames_by_time_and_by_number(tmp_path, suffix, fps):
    film = Film(suffix, 24, num_frames=31)
    write_film(tmp_path / f"f.{suffix}", film)
    shown = [index_of(frame) for frame in media.read_frames(tmp_path / f"f.{suffix}", fps=fps)]
    assert shown == nearest_frames(31, 24, fps).tolist()

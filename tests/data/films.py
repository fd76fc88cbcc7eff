"""Small films of two people who can be found, and a plug-in whose parts tell what the sound says by
its loudness.
"""

import os
import struct
import subprocess
import sys
from fractions import Fraction
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
from PIL import Image

from flowportrait import media
from flowportrait.faces.centerface import CenterFaceDetector
from flowportrait.faces.facemesh import FaceMesh

ROOT = Path(__file__).parents[2]
SAMPLES = Path(media.__file__).parent / "samples"
RATE = 44_100
SETTINGS = [
    "faces.detector_settings.side_px=160", "faces.min_face_px=32", "crop.min_side_px=48",
    "speaker.network=none",
]  # fmt: skip
"""For pictures of 240x160 px."""

LOUD = 0.9
"""Sound at this level makes the plug-in's overlap finder kill its process."""


@cache
def people():
    names = ("portrait.png", "portrait_long_hair.jpg")
    return [
        np.asarray(Image.open(SAMPLES / name).convert("RGB").resize((112, 112))) for name in names
    ]


def frames_of(shots):
    """`shots` are (who, number of frames, background): who is "", "a", "b" or "ab"."""
    a, b = people()
    for who, count, background in shots:
        for i in range(count):
            frame = np.full((160, 240, 3), background, np.uint8)
            frame[:, ::16] //= 2
            shift = i // 12 % 3
            if "a" in who:
                frame[24 + shift : 136 + shift, 4:116] = a
            if "b" in who:
                frame[24 + shift : 136 + shift, 124:236] = b
            yield frame


def noise(seconds, level=0.1, seed=0, rate=RATE):
    """Unlike itself at every shift, and no higher than AAC keeps."""
    white = np.random.default_rng(seed).normal(size=round(seconds * rate)).astype(np.float32)
    soft = np.convolve(white, np.hanning(9) / np.hanning(9).sum(), "same")
    return (soft / np.abs(soft).max() * level).astype(np.float32)


def film(path, shots, fps=24, level=0.1, sound=None):
    """Writes a film with noise as its sound."""
    if sound is None:
        path.write_bytes(_film_of_noise(tuple(shots), fps, level, len(path.name)))
    else:
        media.write_video(path, frames_of(shots), fps, sound, RATE, {}, preset="ultrafast")
    return path


@cache
def _film_of_noise(shots, fps, level, seed):
    """A film's bytes; many tests ask for the same."""
    sound = noise(sum(count for _, count, _ in shots) / fps, level, seed)
    with TemporaryDirectory() as folder:
        return film(Path(folder) / "film.mp4", shots, fps, sound=sound).read_bytes()


_FOUND = {}


def remember_faces(replace):
    """Detector and mesh answer at once to a picture that they have seen: films here show few
    pictures, which many tests prepare. `replace(class, name, value)` is a monkeypatch's setattr.
    """
    for network in (CenterFaceDetector, FaceMesh):
        replace(network, "_look", _remembered(network._look))


def _remembered(look):
    """`look`, whose answers are kept for all tests; they are the same to the bit."""

    def answer(self, image, *how, **named):
        settings = [getattr(self, name, None) for name in ("side_px", "min_score")]
        picture = (image.shape, sha256(image).digest())
        key = (type(self), picture, repr((settings, how, named)))
        if key not in _FOUND:
            _FOUND[key] = look(self, image, *how, **named)
        return list(_FOUND[key])

    return answer


def uneven_film(path, times_s, frames, end_s):
    """A film whose frames come at any times, with sound up to `end_s`."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt, video.time_base = (
            240,
            160,
            "yuv420p",
            Fraction(1, 1000),
        )
        video.codec_context.time_base = Fraction(1, 1000)
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        for time_s, image in zip(times_s, frames, strict=False):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if end_s:
            sound = av.AudioFrame.from_ndarray(noise(end_s)[None], format="fltp", layout="mono")
            sound.sample_rate = RATE
            container.mux(audio.encode(sound))
            container.mux(audio.encode(None))
    return path


def turned(path):
    """Tells players of an mp4 to turn it clockwise by a quarter, as telephones do."""
    content = bytearray(path.read_bytes())
    at = content.rindex(b"tkhd") + 4 + 40  # sound comes first
    content[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


PLUGIN = f"""
import os
import numpy as np
from flowportrait.prepare.speech import Speakers, Spoken

class Overlap:
    def __init__(self, spans=()):
        self.spans = [tuple(span) for span in spans]
    def find(self, pcm):
        if np.abs(pcm).max() > {LOUD} * 0.9 * 32768:
            os._exit(9)
        return Speakers([(0.0, len(pcm) / 16000)], self.spans)

class Language:
    def identify(self, pcm):
        return Spoken("de" if 0.4 < np.abs(pcm).max() / 32768 < 0.8 else "en", 0.9)
"""


def install_plugin(folder):
    """A package on the path with entry points, as another package would bring them."""
    info = folder / "loudness-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "loudness_filters.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loudness\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[flowportrait.overlap_finders]\nloudness = loudness_filters:Overlap\n"
        "[flowportrait.language_finders]\nloudness = loudness_filters:Language\n"
    )


def run(tmp_path, *arguments, wait=True):
    """The command in processes of its own, with the plug-in installed."""
    if not (tmp_path / "plugins").is_dir():
        install_plugin(tmp_path / "plugins")
    overrides = [part for setting in SETTINGS for part in ("--set", setting)]
    process = subprocess.Popen(
        [sys.executable, "-m", "flowportrait", "prepare", *map(str, arguments), *overrides],
        env=os.environ
        | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'plugins'}", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if not wait:
        return process
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


PLUGGED = ("--set", "speech.overlap=loudness", "--set", "speech.language=loudness")

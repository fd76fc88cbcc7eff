"""Write face labels for a folder of clips.

    python -m bench.label_faces CLIPS_DIR LABELS_DIR --landmarker face_landmarker.task

One LABELS_DIR/KEY.npz per KEY.mp4, in the form of the rendered clips' ground truth: `landmarks68`
float16 [n, 68, 2] in px of the clip's own frames, `size_px` their width, `arkit` float16 [n, 52] in
the alphabetical order of ARKit (see LABELS_DIR/arkit_names.json; MediaPipe knows no `tongueOut`, so
that column is 0), `valid` bool [n]. Frames without a face hold nan. Clips already labelled are
skipped, so an interrupted run continues.
"""

import argparse
import json
import time
from pathlib import Path

import av
import numpy as np

from bench.landmarks import ARKIT_NAMES, FaceLandmarker


def read_frames(path: Path) -> np.ndarray:
    """All frames of a video, uint8 [n, h, w, 3] RGB."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def write_label(landmarker: FaceLandmarker, clip: Path, labels: Path) -> int:
    """Label one clip and return its number of frames; the file appears under its name only when
    complete.
    """
    frames = read_frames(clip)
    track = landmarker.track(frames)
    partial = labels / f"{clip.stem}.partial"
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            landmarks68=track.landmarks68.astype(np.float16),
            size_px=np.int32(frames.shape[2]),
            arkit=track.arkit.astype(np.float16),
            valid=track.valid,
        )
    partial.rename(labels / f"{clip.stem}.npz")
    return len(frames)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", type=Path, help="folder of KEY.mp4 files")
    parser.add_argument("labels", type=Path, help="folder to write KEY.npz files to")
    parser.add_argument(
        "--landmarker", type=Path, required=True, help="MediaPipe's face_landmarker.task"
    )
    arguments = parser.parse_args()
    arguments.labels.mkdir(parents=True, exist_ok=True)
    (arguments.labels / "arkit_names.json").write_text(json.dumps(ARKIT_NAMES))
    landmarker = FaceLandmarker(arguments.landmarker)
    clips = sorted(arguments.clips.glob("*.mp4"))
    todo = [clip for clip in clips if not (arguments.labels / f"{clip.stem}.npz").exists()]
    print(f"{len(clips)} clips, {len(clips) - len(todo)} already labelled")
    started = time.monotonic()
    for done, clip in enumerate(todo, start=1):
        write_label(landmarker, clip, arguments.labels)
        if done % 25 == 0 or done == len(todo):
            print(f"{done}/{len(todo)} clips, {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()

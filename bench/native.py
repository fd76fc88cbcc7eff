"""How the shown size holds up: sharpness, seams of groups, blinks and gaze on portraits; the codec
at several sizes.

    python -m bench.native portraits tiny --portraits DIR --audio FILE --out OUT [--size 512] \\
        [--limit 20]
    python -m bench.native codec tiny --world DIR512 --out OUT [--sizes 128 256 512] [--limit 12]

Eyes and faces are measured with the package's own face mesh, whose points agree with MediaPipe's.
Both write OUT/*.json and a sheet of frames at full size, worst first.
"""

import argparse
import json
from pathlib import Path
from statistics import median

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw

from bench.measures import feature_masks, psnr
from flowportrait import media
from flowportrait.codecs.canvas import Canvas
from flowportrait.composite import compose
from flowportrait.data.sources import load_sources
from flowportrait.errors import FlowPortraitError
from flowportrait.faces.facemesh import FaceMesh
from flowportrait.faces.framing import Square, face_in_square
from flowportrait.faces.landmarks import lip_opening
from flowportrait.faces.matte import PersonMatte
from flowportrait.faces.mesh import Mesh
from flowportrait.generate import load

FPS = 24
GROUP = 4


def sharpness(frames: np.ndarray, mask: np.ndarray) -> float:
    """Variance of the Laplacian of the luma of uint8 frames [f, h, w, 3] where `mask` [h, w] or [f,
    h, w] is set.
    """
    luma = frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    laplacian = np.zeros_like(luma)
    laplacian[:, 1:-1, 1:-1] = (
        luma[:, :-2, 1:-1]
        + luma[:, 2:, 1:-1]
        + luma[:, 1:-1, :-2]
        + luma[:, 1:-1, 2:]
        - 4 * luma[:, 1:-1, 1:-1]
    )
    return float(laplacian[np.broadcast_to(mask, luma.shape)].var())


def judder(frames: np.ndarray, mask: np.ndarray) -> float:
    """Mean change of frames at the borders of latent frames over that within them; 1 is none."""
    luma = frames.astype(np.float32).mean(-1)
    change = np.array(
        [np.abs(a - b)[mask].mean() for a, b in zip(luma[1:], luma[:-1], strict=True)]
    )
    at_border = np.arange(len(change)) % GROUP == 0
    return float(change[at_border][1:].mean() / change[~at_border].mean())


def face_mask(mesh: Mesh, shape: tuple[int, int]) -> np.ndarray:
    """The oval of the face, bool [h, w]."""
    image = Image.new("L", shape[::-1])
    ImageDraw.Draw(image).polygon([tuple(point) for point in mesh.oval], fill=1)
    return np.asarray(image) > 0


def lids_and_gaze(meshes: list[Mesh]) -> tuple[np.ndarray, np.ndarray]:
    """The opening of the eyes over their width [f], and where the irises are between the corners
    [f, 2].
    """
    openings, places = [], []
    for mesh in meshes:
        eyes = []
        for lids, iris in zip((mesh.right_lids, mesh.left_lids), mesh.irises, strict=True):
            upper, lower = lids
            corners = upper[[0, -1]]
            width = np.linalg.norm(corners[1] - corners[0])
            gap = np.linalg.norm(lower[3:6] - upper[3:6], axis=-1).mean()
            eyes.append((gap / width, (iris - corners.mean(0)) / width))
        openings.append(np.mean([eye[0] for eye in eyes]))
        places.append(np.mean([eye[1] for eye in eyes], axis=0))
    return np.array(openings), np.array(places)


def blinks_of(openings: np.ndarray) -> int:
    """Times at which the eyes fall below half of what they are usually open."""
    shut = openings < 0.5 * np.median(openings)
    return int((shut[1:] & ~shut[:-1]).sum())


def portraits(arguments: argparse.Namespace) -> dict:
    """Every portrait speaks; a row each, least sharp first."""
    pipeline, mesh = load(arguments.model, "cpu"), FaceMesh()
    sound = media.read_audio(arguments.audio)
    samples = sound.samples[: round(arguments.seconds * sound.sample_rate)]
    rows, pictures = [], {}
    for path in sorted(arguments.portraits.iterdir())[:: arguments.every][: arguments.limit]:
        try:
            made = pipeline.generate(
                str(path), (samples, sound.sample_rate), size=arguments.size, frame="face"
            )
        except FlowPortraitError as error:
            print(f"left out: {error}", flush=True)
            continue
        frames, own = made.frames, made.shot.composite
        if own.mesh is None:
            print(f"left out: {path.name}: no sure mesh of the face", flush=True)
            continue
        mask = face_mask(own.mesh, frames.shape[1:3])
        meshes = mesh.follow(frames, face_in_square(Square(0, 0, frames.shape[1])))
        openings, gaze = lids_and_gaze(meshes)
        points = np.stack([one.landmarks68 for one in meshes])
        sizes = frames.shape[1]
        mouth = feature_masks(own.mesh.landmarks68[None], sizes)[0][0]
        rows.append(
            {
                "portrait": path.name,
                "sharpness": sharpness(frames, mask) / sharpness(own.picture[None], mask),
                "sharpness_mouth": sharpness(frames, mouth) / sharpness(own.picture[None], mouth),
                "judder": judder(frames, mask),
                "blinks_per_minute": blinks_of(openings) / made.video_s * 60,
                "gaze_spread": float(gaze.std(0).mean()),
                "lips_spread": float(lip_opening(points).std()),
            }
        )
        print(rows[-1], flush=True)
        numbers = [0, int(lip_opening(points).argmax()), int(openings.argmin())]
        pictures[path.name] = np.concatenate(
            [own.picture, *(frames[number] for number in numbers)], 1
        )
    rows.sort(key=lambda row: row["sharpness"])
    _write_sheet(arguments.out / "portraits.jpg", [pictures[row["portrait"]] for row in rows])
    return {"median": _medians(rows, "portrait"), "portraits": rows}


@torch.inference_mode()
def codec(arguments: argparse.Namespace) -> dict:
    """Held-out rendered clips, encoded at the model's size and shown at others; the first frame is
    the portrait.
    """
    pipeline = load(arguments.model, "cpu")
    part, size_px = pipeline.codec, pipeline.spec.size_px
    clips = [clip for clip in load_sources(world=arguments.world) if clip.split == "test"][
        : arguments.limit
    ]
    rows, pictures = [], []
    for clip in clips:
        full = np.stack(list(media.read_frames(clip.video)))
        full = full[: 1 + (len(full) - 1) // GROUP * GROUP]
        small = _scaled(full, size_px)
        video = _floats(small)[None].transpose(1, 2)
        for side in arguments.sizes:
            true = _scaled(full, side)
            context = _context(part, true[0], small[0])
            latents = part.encode(video, context)
            made = _bytes(part.decode(latents, context)[0].transpose(0, 1))
            with np.load(clip.labels) as stored:
                points = (
                    stored["landmarks68"].astype(np.float32)[: len(true)] * side / full.shape[1]
                )
            mouth, eyes = feature_masks(points, side)
            rows.append(
                {
                    "clip": clip.key,
                    "size": side,
                    "psnr": psnr(true, made),
                    "psnr_mouth": psnr(true, made, mouth),
                    "psnr_eyes": psnr(true, made, eyes),
                    "sharpness_mouth": sharpness(made, mouth) / sharpness(true, mouth),
                }
            )
            print(rows[-1], flush=True)
            if side == max(arguments.sizes):
                numbers = np.linspace(0, len(true) - 1, 4).astype(int)
                pictures += [
                    np.concatenate(list(true[numbers]), 1),
                    np.concatenate(list(made[numbers]), 1),
                ]
    _write_sheet(arguments.out / "codec.jpg", pictures)
    by_size = {
        side: _medians([row for row in rows if row["size"] == side], "clip")
        for side in arguments.sizes
    }
    return {"median": by_size, "clips": rows}


def _context(part, portrait: np.ndarray, small: np.ndarray):
    """The codec's context with a canvas as `generate` makes it of a portrait that is cut
    already.
    """
    own = compose(
        portrait, len(small), len(portrait), "face", "none", None, FaceMesh(), PersonMatte()
    )
    known = own.landmarks()
    landmarks = None if known is None else torch.from_numpy(known)[None]
    canvas: Canvas = own.canvas(torch.device("cpu"))
    return part.prepare(_floats(small[None]), landmarks, canvas)


def _scaled(frames: np.ndarray, side: int) -> np.ndarray:
    if frames.shape[1] == side:
        return frames
    return np.stack(
        [
            np.asarray(Image.fromarray(f).resize((side, side), Image.Resampling.LANCZOS))
            for f in frames
        ]
    )


def _floats(frames: np.ndarray) -> torch.Tensor:
    return rearrange(
        torch.from_numpy(np.ascontiguousarray(frames)).float() / 127.5 - 1, "n h w c -> n c h w"
    )


def _bytes(frames: torch.Tensor) -> np.ndarray:
    return rearrange((frames.clamp(-1, 1) + 1) * 127.5, "n c h w -> n h w c").round().byte().numpy()


def _medians(rows: list[dict], name: str) -> dict[str, float]:
    return {key: median(row[key] for row in rows) for key in rows[0] if key != name} if rows else {}


def _write_sheet(path: Path, rows: list[np.ndarray]) -> None:
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    Image.fromarray(np.concatenate(padded)).save(path, quality=92)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("model", help="a shipped model or a directory")
    shared.add_argument("--out", type=Path, required=True)
    shared.add_argument("--limit", type=int, default=20)
    one = kinds.add_parser("portraits", parents=[shared])
    one.add_argument("--portraits", type=Path, required=True)
    one.add_argument("--audio", type=Path, required=True)
    one.add_argument("--size", type=int, default=512)
    one.add_argument("--seconds", type=float, default=6.0)
    one.add_argument("--every", type=int, default=1, help="take every n-th portrait")
    one.set_defaults(run=portraits)
    other = kinds.add_parser("codec", parents=[shared])
    other.add_argument("--world", type=Path, required=True)
    other.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512])
    other.set_defaults(run=codec)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = arguments.run(arguments)
    (arguments.out / f"{arguments.run.__name__}.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found["median"], indent=1))


if __name__ == "__main__":
    main()

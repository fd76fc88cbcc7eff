"""The programs a user would take instead of our scorers, each used as its own page shows: for
`bench.scorers`.

Every one decodes the videos that it needs for itself. Networks are given, so that both sides have
the same weights.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import av
import numpy as np
import torch

from flowportrait.registry import FACE_DETECTORS
from flowportrait.scoring.metrics.lse import SyncNet

Frames = np.ndarray
Pairs = Sequence[tuple[Path, Path]]
"""A generated video and its truth."""


def decoded(path: Path) -> Frames:
    """All frames by PyAV, uint8 [f, h, w, 3]."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def over_folder(pairs: Pairs, distance: Callable[[Frames, Frames], Sequence[float]]) -> float:
    """The mean over clips of a distance of frames, the first left out, as a script would take
    it.
    """
    return float(
        np.mean([np.mean(distance(decoded(made)[1:], decoded(truth)[1:])) for made, truth in pairs])
    )


def ssim(made: Frames, truth: Frames, **how: object) -> list[float]:
    """scikit-image, as the paper."""
    from skimage.metrics import structural_similarity

    pairs = zip(made, truth, strict=True)
    return [structural_similarity(a, b, channel_axis=-1, data_range=255, **how) for a, b in pairs]


def ssim_torchmetrics(made: Frames, truth: Frames) -> np.ndarray:
    """torchmetrics, all frames at once; it treats borders otherwise, so its numbers are others."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() for frames in (made, truth))
    return structural_similarity_index_measure(a, b, data_range=255.0, reduction="none").numpy()


def psnr(made: Frames, truth: Frames) -> list[float]:
    """scikit-image."""
    from skimage.metrics import peak_signal_noise_ratio

    return [peak_signal_noise_ratio(b, a, data_range=255) for a, b in zip(made, truth, strict=True)]


def lpips(network: torch.nn.Module, made: Frames, truth: Frames) -> list[float]:
    """The package, frame by frame, as its README shows."""

    def tensor(frame: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 127.5 - 1

    with torch.no_grad():
        return [float(network(tensor(a), tensor(b))) for a, b in zip(made, truth, strict=True)]


def flows(raft: torch.nn.Module, frames: Frames) -> torch.Tensor:
    """torchvision's RAFT called on every pair of frames."""
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        return torch.cat([raft(x[i : i + 1], x[i + 1 : i + 2])[-1] for i in range(len(x) - 1)])


def jitter(raft: torch.nn.Module, path: Path) -> float:
    """Eq. 15 and 16 of a video, its norms averaged over the picture, epsilon 1 px."""
    flow = flows(raft, decoded(path)).double()
    change = (flow[1:] - flow[:-1]).norm(dim=1).mean((1, 2))
    return float((change / (flow[:-1].norm(dim=1).mean((1, 2)) + 1)).mean())


# ------------------------------------------------------------------------------------------------
# Fréchet


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Means and covariances, then SciPy's square root of a matrix."""
    from scipy.linalg import sqrtm

    root = sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    traces = np.trace(np.cov(a, rowvar=False)) + np.trace(np.cov(b, rowvar=False))
    return float(np.square(a.mean(0) - b.mean(0)).sum() + traces - 2 * np.trace(root))


def frechet_torchmetrics(a: np.ndarray, b: np.ndarray) -> float:
    """torchmetrics' own arithmetic, in double precision."""
    from torchmetrics.image.fid import _compute_fid

    moments = (
        (torch.from_numpy(f.mean(0)), torch.from_numpy(np.cov(f, rowvar=False))) for f in (a, b)
    )
    return float(_compute_fid(*(part for both in moments for part in both)))


def pytorch_fid_network(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The Inception of pytorch-fid with these weights instead of those it would fetch."""
    from pytorch_fid import inception

    inception.load_state_dict_from_url = lambda *_, **__: state
    return inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()


def fvd(network: torch.nn.Module, pairs: Pairs, frames: int = 16) -> float:
    """torchvision's R3D-18 by its own preset on the first frames of every clip, SciPy's root after
    it.
    """
    sides = [[r3d18(network, decoded(pair[side])[:frames]) for pair in pairs] for side in (0, 1)]
    return frechet(*map(np.concatenate, sides))


def r3d18(network: torch.nn.Module, clip: Frames) -> np.ndarray:
    """Features of a clip by torchvision's preset, as its page shows."""
    from torchvision.transforms._presets import VideoClassification

    prepare = VideoClassification(crop_size=(112, 112), resize_size=(128, 171))
    network.fc = torch.nn.Identity()
    with torch.inference_mode():
        return network(prepare(torch.from_numpy(clip).permute(0, 3, 1, 2))[None]).numpy()


def inception(network: torch.nn.Module, frames: Frames) -> np.ndarray:
    """Features of pictures by pytorch-fid's network, which makes them 299 x 299 itself."""
    with torch.inference_mode():
        return (
            network(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255)[0]
            .flatten(1)
            .numpy()
        )


def fid(network: torch.nn.Module, pairs: Pairs) -> float:
    """pytorch-fid on two folders of frames, which ffmpeg writes first."""
    from pytorch_fid import fid_score

    moments = []
    for side in (0, 1):
        with tempfile.TemporaryDirectory() as folder:
            for index, pair in enumerate(pairs):
                ffmpeg("-i", pair[side], f"{folder}/{index:03}-%05d.png")
            files = sorted(Path(folder).glob("*.png"))
            moments += fid_score.calculate_activation_statistics(
                files, network, 50, 2048, "cpu", num_workers=0
            )
    return float(fid_score.calculate_frechet_distance(*moments))


# ------------------------------------------------------------------------------------------------
# SyncNet


def ffmpeg(*arguments: object) -> None:
    """The program, as scripts call it: the system's where there is one."""
    program = shutil.which("ffmpeg")
    if program is None:
        from imageio_ffmpeg import get_ffmpeg_exe

        program = get_ffmpeg_exe()
    subprocess.run(
        [program, "-loglevel", "error", "-threads", "1", "-y", *map(str, arguments)], check=True
    )


Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""


def syncnet(
    network: SyncNet, path: Path, box: Box | None = None, seconds: float | None = None
) -> list[float]:
    """LSE-D and LSE-C by the stages of the published pipeline.

    Video to AVI at 25 fps, frames to JPEG files, sound to a wav; a face detector on every frame; a
    crop for every frame, written as another video and joined with its sound; its frames to JPEG
    files again, windows in lists, distances row by row. With a `box` no detector is used; without
    one, boxes are those of `find_boxes`, and a network of S3FD's shape, whose weights are
    elsewhere, looks at every frame for the time that it takes.
    """
    with tempfile.TemporaryDirectory() as name:
        cut = syncnet_cut(Path(name), path, box, seconds)
        images, samples = syncnet_files(cut, Path(name) / "again")
        return _score_stage(network, images, samples)


def syncnet_cut(
    folder: Path, path: Path, box: Box | None = None, seconds: float | None = None
) -> Path:
    """The pipeline's video of the face, with its sound."""
    import cv2
    from scipy.signal import medfilt

    first = ("-t", seconds) if seconds else ()
    ffmpeg("-i", path, *first, "-qscale:v", 2, "-async", 1, "-r", 25, folder / "video.avi")
    (folder / "frames").mkdir()
    ffmpeg(
        "-i", folder / "video.avi", "-qscale:v", 2, "-f", "image2", folder / "frames" / "%06d.jpg"
    )
    ffmpeg(
        "-i",
        folder / "video.avi",
        "-ac",
        1,
        "-vn",
        "-acodec",
        "pcm_s16le",
        "-ar",
        16000,
        folder / "audio.wav",
    )
    files = sorted((folder / "frames").glob("*.jpg"))
    boxes = [box] * len(files) if box else _boxes(path, files)
    x0, y0, x1, y1 = np.array(boxes).T
    sides = np.maximum(x1 - x0, y1 - y0) / 2, (y0 + y1) / 2, (x0 + x1) / 2
    half, middle_y, middle_x = (medfilt(path, kernel_size=13) for path in sides)
    writer = cv2.VideoWriter(
        str(folder / "crop.avi"), cv2.VideoWriter_fourcc(*"XVID"), 25, (224, 224)
    )
    for i, file in enumerate(files):
        border = int(half[i] * 1.8)
        image = np.pad(
            cv2.imread(str(file)), ((border, border), (border, border), (0, 0)), constant_values=110
        )
        x, y, side = middle_x[i] + border, middle_y[i] + border, half[i]
        face = image[int(y - side) : int(y + side * 1.8), int(x - side * 1.4) : int(x + side * 1.4)]
        writer.write(cv2.resize(face, (224, 224)))
    writer.release()
    whole = (
        folder / "audio.wav",
        "-ss",
        "0.000",
        "-to",
        f"{len(files) / 25:.3f}",
        folder / "cut.wav",
    )
    ffmpeg("-i", *whole)
    ffmpeg(
        "-i",
        folder / "crop.avi",
        "-i",
        folder / "cut.wav",
        "-c:v",
        "copy",
        "-c:a",
        "copy",
        folder / "both.avi",
    )
    return folder / "both.avi"


_FOUND: dict[Path, list[Box]] = {}


def find_boxes(path: Path) -> None:
    """Looks for the largest face of every frame with our detector, for all later calls of
    `syncnet`.
    """
    detector = FACE_DETECTORS.load("centerface")(side_px=256)
    _FOUND[path] = [
        max(detector.detect(frame), key=lambda box: box.area)[:4] for frame in decoded(path)
    ]


def _boxes(path: Path, files: Sequence[Path]) -> list[Box]:
    """What was found, after the time that the published detector takes."""
    import cv2

    for file in files:
        small = cv2.resize(cv2.imread(str(file)), (0, 0), fx=0.25, fy=0.25)
        with torch.inference_mode():
            s3fd()(torch.from_numpy(small).permute(2, 0, 1)[None].float())
    found = _FOUND[path]
    # The first frame is doubled now and then.
    return [found[max(0, i + len(found) - len(files))] for i in range(len(files))]


class _S3fd(torch.nn.Module):
    """The convolutions of S3FD (Zhang et al. 2017): VGG-16 with four more stages, heads at six
    scales.
    """

    def __init__(self):
        super().__init__()
        conv, self.stages, channels = torch.nn.Conv2d, torch.nn.ModuleList(), 3
        for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            layers = []
            for _ in range(count):
                layers += [conv(channels, width, 3, padding=1), torch.nn.ReLU()]
                channels = width
            self.stages.append(torch.nn.Sequential(*layers))
        self.pool, relu = torch.nn.MaxPool2d(2, 2), torch.nn.ReLU()
        self.later = torch.nn.ModuleList(
            [
                torch.nn.Sequential(conv(512, 1024, 3, padding=3), relu, conv(1024, 1024, 1), relu),
                torch.nn.Sequential(conv(1024, 256, 1), relu, conv(256, 512, 3, 2, 1), relu),
                torch.nn.Sequential(conv(512, 128, 1), relu, conv(128, 256, 3, 2, 1), relu),
            ]
        )
        widths = 256, 512, 512, 1024, 512, 256
        self.heads = torch.nn.ModuleList(
            conv(w, 8 if i == 0 else 6, 3, padding=1) for i, w in enumerate(widths)
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        taps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            taps += [x] if index > 1 else []
            x = self.pool(x)
        for stage in self.later:
            x = stage(x)
            taps.append(x)
        return [head(tap) for head, tap in zip(self.heads, taps, strict=True)]


@cache
def s3fd() -> torch.nn.Module:
    """Of random weights: it finds nothing, but takes its time."""
    return _S3fd().eval()


def syncnet_files(video: Path, folder: Path) -> tuple[Frames, np.ndarray]:
    """The pictures (BGR) and the sound that the network is given, through files again."""
    import cv2
    from scipy.io import wavfile

    folder.mkdir()
    ffmpeg("-i", video, "-threads", 1, "-f", "image2", folder / "%06d.jpg")
    ffmpeg(
        "-i",
        video,
        "-async",
        1,
        "-ac",
        1,
        "-vn",
        "-acodec",
        "pcm_s16le",
        "-ar",
        16000,
        folder / "audio.wav",
    )
    images = np.stack([cv2.imread(str(file)) for file in sorted(folder.glob("*.jpg"))])
    return images, wavfile.read(folder / "audio.wav")[1]


def _score_stage(network: SyncNet, images: Frames, samples: np.ndarray) -> list[float]:
    from python_speech_features import mfcc

    x = torch.from_numpy(images).permute(3, 0, 1, 2)[None].float()
    cepstra = torch.from_numpy(mfcc(samples, 16000)).float().T[None, None]
    count = min(len(images), len(samples) // 640) - 5
    lips, sounds = [], []
    for start in range(0, count, 20):
        window = range(start, min(count, start + 20))
        lips.append(network.seen(torch.cat([x[:, :, i : i + 5] for i in window])))
        sounds.append(
            network.heard(torch.cat([cepstra[:, :, :, 4 * i : 4 * i + 20] for i in window]))
        )
    lip, sound = torch.cat(lips), torch.nn.functional.pad(torch.cat(sounds), (0, 0, 15, 15))
    rows = [
        torch.nn.functional.pairwise_distance(lip[[i]].repeat(31, 1), sound[i : i + 31])
        for i in range(len(lip))
    ]
    means = torch.stack(rows).mean(0)
    return [float(means.min()), float(means.median() - means.min())]

"""Every metric against what a user would take instead: the same clips, the same weights, one run, turn about.

    pip install 'flowportrait[scorers,peers]'
    python -m bench.scorers VIDEO... --raft raft-small.pth [--size 256] [--frames 24] [--rounds 3] -o scorers.json

Seconds are of the processor (all threads of this process and its children), the least of all rounds: what else runs on
the machine hardly changes them. Only the last rows, over a folder, count by the clock as well, because there threads
work side by side. `difference` is the largest between the two results, relative to the peer's largest: a peer that computes
something else is not a peer. LPIPS trunks, SyncNet and R3D-18 get weights from a seed; time does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import lpips as lpips_package
import numpy as np
import python_speech_features
import scipy.linalg
import torch
import torchvision
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image.fid import _compute_fid

from flowportrait.media import Clip, read_audio, read_frames, write_video
from flowportrait.scoring import Sample, frechet, motion, perceptual, pixel, sync
from flowportrait.scoring.metric import read_all

Case = tuple[str, str, Callable[[], object], Callable[[], object]]
"""What is measured, the peer's name, ours, the peer's; both give arrays that should be equal."""


@dataclass(frozen=True)
class Row:
    """One comparison: least processor seconds of each, how many times less ours takes, by the clock too; and how far
    the results are apart."""

    measure: str
    peer: str
    ours_s: float
    peer_s: float
    ratio: float
    clock_ratio: float
    difference: float

    def line(self) -> str:
        """For people."""
        return (
            f"| {self.measure} | {self.peer} | {self.ours_s:.3f} | {self.peer_s:.3f} | {self.ratio:.2f} "
            f"| {self.clock_ratio:.2f} | {self.difference:.1e} |"
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--raft", type=Path, required=True, help="RAFT-small, torchvision's or the authors' file")
    parser.add_argument("--size", type=int, default=256, help="side of the frames in px")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="measures whose names hold this")
    parser.add_argument("-o", "--out", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", category=UserWarning)  # lpips calls torchvision as it was years ago
    rows = []
    print("| measure | peer | ours s | peer s | times less | by the clock | difference |\n|---|---|---|---|---|---|---|")
    for case in cases(options):
        if options.only in case[0]:
            rows.append(compared(*case, rounds=options.rounds))
            print(rows[-1].line(), flush=True)
    if options.out:
        about = {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), "frames": options.frames,
                 "size_px": options.size, "load": os.getloadavg()[0]}  # fmt: skip
        options.out.write_text(json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


def compared(measure: str, peer: str, ours: Callable, theirs: Callable, rounds: int) -> Row:
    """Both in turn, `rounds` times, after one call of each to warm up and to compare what they give."""
    a, b = (np.atleast_1d(np.asarray(call(), dtype=np.float64)) for call in (ours, theirs))
    finite = np.isfinite(b)
    difference = float(np.abs(a - b)[finite].max() / max(np.abs(b[finite]).max(), 1e-12))
    taken = np.array([(_seconds(ours), _seconds(theirs)) for _ in range(rounds)])  # [round, whose, processor and clock]
    (ours_s, ours_clock), (peer_s, peer_clock) = taken.min(0)
    return Row(measure, peer, *map(float, (ours_s, peer_s, peer_s / ours_s, peer_clock / ours_clock)), difference)


def _seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Of the processor, and by the clock."""
    before, started = os.times(), time.perf_counter()
    call()
    after, clock_s = os.times(), time.perf_counter() - started
    # At least a tick of the kernel's accounting, so that no ratio is of nothing.
    return max(sum(after[:4]) - sum(before[:4]), 0.01), clock_s


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """All comparisons; the first video gives the frames and the sound, blurred frames are its imitation."""
    truth = frames_of(options.videos[0], options.size, options.frames)
    made = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in truth])
    sound = sound_of(options.videos[0])
    yield from pixel_cases(made, truth)
    yield from perceptual_cases(made, truth)
    yield from motion_cases(truth, options.raft)
    yield from sync_cases(options.videos[0], sound)
    yield from frechet_cases()
    yield from folder_cases(options)


def frames_of(path: Path, size: int, count: int) -> np.ndarray:
    """The first frames of a video as squares, uint8 [f, size, size, 3]."""
    frames = [Image.fromarray(frame).resize((size, size)) for frame in islice(read_frames(path), count)]
    return np.stack([np.asarray(frame) for frame in frames])


def sound_of(path: Path) -> np.ndarray:
    """16 kHz int16 mono."""
    return (read_audio(path, sample_rate=16_000).samples * 32767).astype(np.int16)


# ------------------------------------------------------------------------------------- against the truth


def pixel_cases(made: np.ndarray, truth: np.ndarray) -> Iterator[Case]:
    """SSIM and PSNR."""
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    yield ("ssim", "scikit-image, frame by frame",
           partial(pixel.ssim, made, truth, "uniform"), partial(scikit_ssim, made, truth))  # fmt: skip
    yield ("ssim, gaussian window", "scikit-image, frame by frame",
           partial(pixel.ssim, made, truth, "gaussian"), partial(scikit_ssim, made, truth, **gaussian))  # fmt: skip
    yield ("ssim, gaussian window", "torchmetrics, one batch",
           partial(pixel.ssim, made, truth, "gaussian"), partial(torchmetrics_ssim, made, truth))  # fmt: skip
    yield ("psnr", "scikit-image, frame by frame",
           lambda: [pixel.psnr_db(error) for error in pixel.squared_error(made, truth)],
           lambda: [peak_signal_noise_ratio(b, a) for a, b in zip(made, truth, strict=True)])  # fmt: skip


def scikit_ssim(made: np.ndarray, truth: np.ndarray, **how: object) -> list[float]:
    """As its documentation shows it."""
    pairs = zip(made, truth, strict=True)
    return [structural_similarity(b, a, channel_axis=-1, data_range=255, **how) for a, b in pairs]


def torchmetrics_ssim(made: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Another treatment of borders, so other numbers."""
    a, b = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() for frames in (made, truth))
    return structural_similarity_index_measure(a, b, data_range=255.0, reduction="none").numpy()


def perceptual_cases(made: np.ndarray, truth: np.ndarray) -> Iterator[Case]:
    """LPIPS; the package's trunk is given the weights of ours."""
    for name in ("alex", "vgg", "squeeze"):
        peer = lpips_package.LPIPS(net=name, pnet_rand=True, verbose=False).eval()
        builder = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}[name]
        trunk = getattr(torchvision.models, builder)(weights=None).features
        copied = dict(zip(trunk.state_dict(), peer.net.state_dict().values(), strict=False))
        trunk.load_state_dict(copied, strict=False)
        ours = perceptual.Lpips(name, trunk)
        count = 8 if name == "vgg" else len(made)
        yield (f"lpips {name}, {count} frames", "lpips, frame by frame",
               partial(_in_batches, ours, made[:count], truth[:count]),
               partial(lpips_frames, peer, made[:count], truth[:count], 1))  # fmt: skip
        yield (f"lpips {name}, {count} frames", "lpips, batches of 8",
               partial(_in_batches, ours, made[:count], truth[:count]),
               partial(lpips_frames, peer, made[:count], truth[:count], 8))  # fmt: skip


def _in_batches(network: perceptual.Lpips, made: np.ndarray, truth: np.ndarray) -> np.ndarray:
    step = perceptual.LpipsConfig().batch_frames
    return torch.cat([network(made[i : i + step], truth[i : i + step]) for i in range(0, len(made), step)]).numpy()


@torch.inference_mode()
def lpips_frames(network: torch.nn.Module, made: np.ndarray, truth: np.ndarray, step: int) -> np.ndarray:
    """The package's own `im2tensor` arithmetic and call."""
    a, b = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1 for frames in (made, truth))
    return torch.cat([network(a[i : i + step], b[i : i + step]).flatten() for i in range(0, len(a), step)]).numpy()


# ------------------------------------------------------------------------------------- motion, sound


def motion_cases(frames: np.ndarray, weights: Path) -> Iterator[Case]:
    """Flow of all neighbours by RAFT-small."""
    raft = motion.load_raft(weights, "small")
    yield ("raft flow", "torchvision, pair by pair",
           lambda: motion.optical_flow(raft, frames).numpy(), partial(raft_pairs, raft, frames))  # fmt: skip


@torch.inference_mode()
def raft_pairs(raft: torch.nn.Module, frames: np.ndarray) -> np.ndarray:
    """The last of the flows that torchvision's RAFT gives for each pair."""
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.cat([raft(x[i : i + 1], x[i + 1 : i + 2], num_flow_updates=12)[-1] for i in range(len(x) - 1)]).numpy()


def sync_cases(video: Path, sound: np.ndarray) -> Iterator[Case]:
    """The stages of the published SyncNet pipeline."""
    yield ("cepstra of 16 kHz sound", "python_speech_features",
           partial(sync.mfcc, sound), partial(python_speech_features.mfcc, sound, 16_000))  # fmt: skip
    if shutil.which("ffmpeg"):
        yield ("frames of a file at 25 fps", "ffmpeg to JPEG files, cv2.imread",
               lambda: sum(1 for _ in read_frames(video, fps=25)), partial(jpeg_frames, video))  # fmt: skip
    lips, sounds = torch.randn(250, 1024), torch.randn(250, 1024)
    yield ("distances of 250 windows at 31 shifts", "the authors' loop",
           lambda: sync.distances(lips, sounds).numpy(), partial(distances_by_window, lips, sounds))  # fmt: skip
    network = sync.SyncNet().eval()
    faces = frames_of(video, 224, 25)
    yield ("SyncNet on 20 windows", "the authors' batches of 20, windows stacked",
           lambda: sync.embeddings(network, faces, sound)[0].numpy(), partial(stacked, network, faces, sound))  # fmt: skip


def jpeg_frames(video: Path) -> int:
    """What the published pipeline does between a video and its network."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["ffmpeg", "-loglevel", "error", "-i", str(video), "-r", "25", "-f", "image2", f"{folder}/%06d.jpg"]
        subprocess.run(command, check=True)
        return sum(cv2.imread(str(path)) is not None for path in sorted(Path(folder).iterdir()))


def distances_by_window(lips: torch.Tensor, sounds: torch.Tensor, reach: int = 15) -> np.ndarray:
    """Window by window, each against 31 windows of sound padded with zeros."""
    padded = torch.nn.functional.pad(sounds, (0, 0, reach, reach))
    rows = [
        torch.nn.functional.pairwise_distance(lips[[i]].repeat(2 * reach + 1, 1), padded[i : i + 2 * reach + 1])
        for i in range(len(lips))
    ]
    return torch.stack(rows).numpy()


@torch.inference_mode()
def stacked(network: sync.SyncNet, frames: np.ndarray, sound: np.ndarray) -> np.ndarray:
    """Every window of frames and of cepstra cut out and stacked, 20 at a time."""
    pixels = torch.from_numpy(frames[..., ::-1].astype(np.float32)).permute(3, 0, 1, 2)[None]
    cepstra = torch.from_numpy(python_speech_features.mfcc(sound, 16_000)).float().T[None, None]
    found = []
    for start in range(0, len(frames) - 5, 20):
        windows = range(start, min(start + 20, len(frames) - 5))
        seen = torch.cat([pixels[:, :, i : i + 5] for i in windows])
        heard = torch.cat([cepstra[..., 4 * i : 4 * i + 20] for i in windows])
        found.append(network.netfclip(network.netcnnlip(seen).flatten(1)))
        network.netfcaud(network.netcnnaud(heard).flatten(1))
    return torch.cat(found).numpy()


# ------------------------------------------------------------------------------------- sets and folders


def frechet_cases() -> Iterator[Case]:
    """The distance alone, at the sizes of R3D-18 and of Inception."""
    random = np.random.default_rng(0)
    for count, size in ((930, 512), (930, 2048)):
        x, y = random.normal(size=(count, size)), random.normal(0.1, 1.1, (count, size))
        yield (f"Frechet, {count} x {size}", "scipy.linalg.sqrtm",
               partial(frechet.frechet_distance, x, y), partial(by_matrix_root, x, y))  # fmt: skip
        yield (f"Frechet, {count} x {size}", "torchmetrics",
               partial(frechet.frechet_distance, x, y), partial(by_torchmetrics, x, y))  # fmt: skip


def by_matrix_root(x: np.ndarray, y: np.ndarray) -> float:
    """pytorch-fid's arithmetic, with its 1e-6 on singular covariances."""
    (mean_x, cov_x), (mean_y, cov_y) = ((f.mean(0), np.cov(f, rowvar=False)) for f in (x, y))
    offset = 1e-6 * np.eye(x.shape[1]) if len(x) <= x.shape[1] else 0
    root = scipy.linalg.sqrtm((cov_x + offset) @ (cov_y + offset))
    return float(np.square(mean_x - mean_y).sum() + np.trace(cov_x + cov_y) - 2 * np.trace(root).real)


def by_torchmetrics(x: np.ndarray, y: np.ndarray) -> float:
    """Its own function on means and covariances."""
    (mean_x, cov_x), (mean_y, cov_y) = (
        (torch.from_numpy(f.mean(0)), torch.from_numpy(np.cov(f, rowvar=False))) for f in (x, y)
    )
    return float(_compute_fid(mean_x, cov_x, mean_y, cov_y))


def folder_cases(options: argparse.Namespace) -> Iterator[Case]:
    """The set that needs no downloads over a folder with truth: one reading of it, against one peer after another."""
    with tempfile.TemporaryDirectory() as name:
        pairs = write_pairs(options, Path(name))
        yield (f"whole set over {len(pairs)} clips", "the peers one after another",
               partial(ours_over, pairs, options.raft), partial(peers_over, pairs, options.raft))  # fmt: skip


def write_pairs(options: argparse.Namespace, folder: Path) -> list[tuple[Path, Path]]:
    """(imitation, truth) of each video as files of the same sizes."""
    pairs = []
    for index, video in enumerate(options.videos):
        truth = frames_of(video, options.size, options.frames)
        made = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in truth])
        sound = np.resize(read_audio(video, sample_rate=48_000).samples, len(truth) * 2000)
        files = folder / f"made-{index}.mp4", folder / f"true-{index}.mp4"
        for path, frames in zip(files, (made, truth), strict=True):
            write_video(path, frames, 24, sound, 48_000, {})
        pairs.append(files)
    return pairs


def ours_over(pairs: list[tuple[Path, Path]], raft: Path) -> np.ndarray:
    """SSIM, PSNR and jitter of every clip through the door that `flowportrait score` uses."""
    ssim = pixel.Ssim(pixel.Ssim.Config(skip_first=False))
    psnr = pixel.Psnr(pixel.Psnr.Config(skip_first=False))
    jitter = motion.RaftJitter(motion.RaftJitter.Config(weights=raft))
    samples = [Sample(str(made), Clip(made), Clip(true)) for made, true in pairs]
    rows = list(read_all((sample, [ssim, psnr, jitter]) for sample in samples))
    found = {(row.clip, row.scorer): row.value for row in rows}
    names = (ssim.name, psnr.name, jitter.name)
    return np.array([[found[sample.id, name] for name in names] for sample in samples])


def peers_over(pairs: list[tuple[Path, Path]], raft: Path) -> np.ndarray:
    """The same numbers as a user gets them: one tool after another, each of which reads the files."""
    network = motion.load_raft(raft, "small")
    columns = [
        [np.mean(scikit_ssim(by_opencv(made), by_opencv(true))) for made, true in pairs],
        [np.mean([peak_signal_noise_ratio(b, a) for a, b in zip(by_opencv(made), by_opencv(true), strict=True)])
         for made, true in pairs],
        [motion.jitter(torch.from_numpy(raft_pairs(network, by_opencv(made)))).mean() for made, _ in pairs],
    ]  # fmt: skip
    return np.array(columns).T


def by_opencv(path: Path) -> np.ndarray:
    """All frames, RGB."""
    reader = cv2.VideoCapture(str(path))
    frames = []
    while (read := reader.read())[0]:
        frames.append(read[1][..., ::-1])
    return np.stack(frames)


if __name__ == "__main__":
    main()

"""Every metric beside the peer a user would take instead, on the same clips in one run: equal numbers, how much faster.

    python -m bench.scorers [CLIPS] [--raft WEIGHTS] [--clips 4] [--frames 24] [--size 256] [--repeats 3]

Peers: scikit-image frame by frame, torchmetrics, `lpips`, SciPy's
sqrtm for the Fréchet distance, RAFT called pair by pair, python_speech_features, and SyncNet's published stages
(frames through JPEG files, windows gathered one by one). Networks without reachable weights are filled with the same
random numbers on both sides: time and equality need no trained ones. Ratios are of the best of `--repeats` rounds in
which both sides take turns, once of the processor's seconds, which other work on the machine hardly changes, and once
by the clock, which counts where threads work side by side.

    pip install 'flowportrait[bench,eval,scorers]'
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from flowportrait import media
from flowportrait.media import Clip
from flowportrait.scoring import Sample, frechet, motion, perceptual, pixel, sync
from flowportrait.scoring.metric import Metric, Reading, View, read_all


def measure(name: str, ours: Callable[[], np.ndarray], peer: Callable[[], np.ndarray], repeats: int) -> dict:
    """Best times of both, in turns, and the largest relative difference of their numbers."""
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "peer": []}
    results = {}
    for _ in range(repeats):
        for side, work in (("peer", peer), ("ours", ours)):
            started = time.process_time(), time.perf_counter()
            results[side] = np.asarray(work(), np.float64)
            times[side].append((time.process_time() - started[0], time.perf_counter() - started[1]))
    (ours_s, ours_clock_s), (peer_s, peer_clock_s) = (np.min(times[side], 0).tolist() for side in ("ours", "peer"))
    scale = max(np.abs(results["peer"]).max(), 1e-12)
    row = {
        "metric": name, "ours_s": ours_s, "peer_s": peer_s, "ratio": peer_s / ours_s,
        "clock_ratio": peer_clock_s / ours_clock_s,
        "difference": float(np.abs(results["ours"] - results["peer"]).max() / scale),
    }  # fmt: skip
    print(json.dumps(row), flush=True)
    return row


def ssim_peer(made: np.ndarray, truth: np.ndarray, **how: object) -> list[float]:
    """scikit-image, as the paper."""
    from skimage.metrics import structural_similarity

    pairs = zip(made, truth, strict=True)
    return [structural_similarity(a, b, channel_axis=-1, data_range=255, **how) for a, b in pairs]


def ssim_torchmetrics(made: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """torchmetrics, all frames at once; it treats borders otherwise, so its numbers are others."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() for frames in (made, truth))
    return structural_similarity_index_measure(a, b, data_range=255.0, reduction="none").numpy()


def psnr_peer(made: np.ndarray, truth: np.ndarray) -> list[float]:
    """scikit-image."""
    from skimage.metrics import peak_signal_noise_ratio

    return [peak_signal_noise_ratio(b, a, data_range=255) for a, b in zip(made, truth, strict=True)]


def psnr_ours(made: np.ndarray, truth: np.ndarray) -> list[float]:
    """All frames."""
    return [pixel.psnr_db(error) for error in pixel.squared_error(made, truth)]


def lpips_pair() -> tuple[perceptual.Lpips, torch.nn.Module]:
    """Ours and the `lpips` package's, on one AlexNet of random weights."""
    import lpips

    peer = lpips.LPIPS(net="alex", pretrained=True, pnet_rand=True, verbose=False).eval()
    trunk = torch.nn.Sequential(*(layer for i in range(1, 6) for layer in getattr(peer.net, f"slice{i}")))
    return perceptual.Lpips("alex", trunk), peer


def lpips_peer(network: torch.nn.Module, made: np.ndarray, truth: np.ndarray) -> list[float]:
    """Frame by frame, as its README shows."""

    def tensor(frame):
        return torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 127.5 - 1

    with torch.no_grad():
        return [float(network(tensor(a), tensor(b))) for a, b in zip(made, truth, strict=True)]


def raft_peer(raft: torch.nn.Module, frames: np.ndarray) -> np.ndarray:
    """torchvision's RAFT called on every pair of frames."""
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        return torch.cat([raft(x[i : i + 1], x[i + 1 : i + 2])[-1] for i in range(len(x) - 1)]).numpy()


def frechet_peer(a: np.ndarray, b: np.ndarray) -> float:
    """Means and covariances, then SciPy's square root of a matrix."""
    from scipy.linalg import sqrtm

    root = sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    traces = np.trace(np.cov(a, rowvar=False)) + np.trace(np.cov(b, rowvar=False))
    return float(np.square(a.mean(0) - b.mean(0)).sum() + traces - 2 * np.trace(root))


def frechet_torchmetrics(a: np.ndarray, b: np.ndarray) -> float:
    """torchmetrics' own arithmetic, in double precision."""
    from torchmetrics.image.fid import _compute_fid

    moments = ((torch.from_numpy(f.mean(0)), torch.from_numpy(np.cov(f, rowvar=False))) for f in (a, b))
    return float(_compute_fid(*(part for both in moments for part in both)))


def syncnet_peer(network: sync.SyncNet, path: Path, samples: np.ndarray) -> list[float]:
    """The published stages: frames as JPEG files, read again; windows gathered in lists; distances in a loop."""
    import cv2
    from python_speech_features import mfcc

    with tempfile.TemporaryDirectory() as folder:
        for index, frame in enumerate(media.read_frames(path, fps=25)):
            Image.fromarray(frame).save(f"{folder}/{index:06}.jpg", quality=95)
        images = [cv2.imread(str(p)) for p in sorted(Path(folder).glob("*.jpg"))]
        images = np.stack([cv2.resize(image, (224, 224)) for image in images])
    x = torch.from_numpy(images).permute(3, 0, 1, 2)[None].float()
    cepstra = torch.from_numpy(mfcc(samples, 16000)).float().T[None, None]
    count = min(len(images), len(samples) // 640) - 5
    lips, sounds = [], []
    for start in range(0, count, 20):
        window = range(start, min(count, start + 20))
        lips.append(network.seen(torch.cat([x[:, :, i : i + 5] for i in window])))
        sounds.append(network.heard(torch.cat([cepstra[:, :, :, 4 * i : 4 * i + 20] for i in window])))
    lip, sound = torch.cat(lips), torch.nn.functional.pad(torch.cat(sounds), (0, 0, 15, 15))
    rows = [torch.nn.functional.pairwise_distance(lip[[i]].repeat(31, 1), sound[i : i + 31]) for i in range(len(lip))]
    means = torch.stack(rows).mean(0)
    return [float(means.min()), float(means.median() - means.min())]


def syncnet_ours(network: sync.SyncNet, path: Path) -> list[float]:
    """The same without files."""
    view = View(Sample("clip", Clip(path)))
    samples = (view.sound * 32768).round().clip(-32768, 32767).astype(np.int16)
    found = sync.lse(*sync.embeddings(network, sync._whole(view.frames_at(sync.FPS)), samples))
    return [found.distance, found.confidence]


class _Given(Metric):
    """A metric whose network is given, for those without reachable weights."""

    name, unit, low, high, better = "given", "1", 0.0, np.inf, "lower"

    def __init__(self, work: Callable[[View], float]):
        super().__init__()
        self.work = work

    def read(self, view: View) -> Reading:
        return Reading(self.work(view))


def whole_set(pairs: list[Sample], raft: torch.nn.Module | None, networks_: tuple) -> tuple[Callable, Callable]:
    """All metrics over a folder: ours over one decoding, the peers one after another as scripts would do it."""
    ours, peer = networks_
    metrics: list[Metric] = [pixel.Ssim(), pixel.Psnr()]
    metrics.append(_Given(lambda view: float(ours(*pixel.compared(view, pixel.PairConfig())).mean())))
    if raft is not None:
        metrics.append(_Given(lambda view: float(motion.jitter(motion.optical_flow(raft, view.frames)).mean())))

    def read(path: Path) -> np.ndarray:
        return np.stack(list(media.read_frames(path)))

    def ours_all() -> np.ndarray:
        scores = list(read_all(((sample, metrics) for sample in pairs), workers=2))
        return np.array([np.mean([s.value for s in scores[i :: len(metrics)]]) for i in range(len(metrics))])

    def peers_all() -> np.ndarray:
        def over(distance: Callable[[np.ndarray, np.ndarray], list[float]]) -> float:
            return float(np.mean([np.mean(distance(read(s.clip.path)[1:], read(s.truth.path)[1:])) for s in pairs]))

        found = [over(ssim_peer), over(psnr_peer), over(lambda a, b: lpips_peer(peer, a, b))]
        if raft is not None:
            flows = [torch.from_numpy(raft_peer(raft, read(s.clip.path))) for s in pairs]
            found.append(float(np.mean([float(motion.jitter(flow).mean()) for flow in flows])))
        return np.array(found)

    return ours_all, peers_all


def make_pairs(folder: Path, source: Path | None, count: int, frames: int, size: int) -> list[Sample]:
    """Clips and slightly blurred, shifted copies of them as what was generated."""
    rng, pairs = np.random.default_rng(0), []
    found = sorted(source.glob("*.mp4"))[:count] if source else []
    for index in range(count):
        if index < len(found):
            shown = pixel.sized(np.stack(list(media.read_frames(found[index]))[:frames]), size, size)
        else:
            ground = np.kron(rng.integers(40, 200, (size // 8, size // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
            shown = np.stack([np.roll(ground, i, 1) for i in range(frames)])
        made = pixel.sized(pixel.sized(np.roll(shown, 1, 1), size // 2, size // 2), size, size)
        tone = (0.2 * np.sin(np.arange(round(frames / 25 * 16000)) * 0.1)).astype(np.float32)
        for name, video in (("made", made), ("truth", shown)):
            media.write_video(folder / f"{index}-{name}.mp4", video, 25, tone, 16000, {})
        pairs.append(Sample(str(index), *(Clip(folder / f"{index}-{name}.mp4") for name in ("made", "truth"))))
    return pairs


def main() -> None:
    """Prints one JSON line a metric and a table at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", type=Path)
    parser.add_argument("--raft", type=Path)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        pairs = make_pairs(Path(name), options.source, options.clips, options.frames, options.size)
        rows = list(_rows(pairs, options))
    print(f"\n| metric | ours s | peer s | times less | by the clock | largest relative difference |\n|{'---|' * 6}")
    for row in rows:
        figures = f"{row['ours_s']:.3f} | {row['peer_s']:.3f} | {row['ratio']:.2f} | {row['clock_ratio']:.2f}"
        print(f"| {row['metric']} | {figures} | {row['difference']:.1e} |")


def _rows(pairs: list[Sample], options: argparse.Namespace):
    made, truth = View(pairs[0]).pairs
    repeats = options.repeats
    ours = lambda: pixel.ssim(made, truth, "uniform")  # noqa: E731
    yield measure("ssim / scikit-image", ours, lambda: ssim_peer(made, truth), repeats)
    blurred = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    ours = lambda: pixel.ssim(made, truth, "gaussian")  # noqa: E731
    yield measure("ssim gaussian / scikit-image", ours, lambda: ssim_peer(made, truth, **blurred), repeats)
    yield measure("ssim gaussian / torchmetrics", ours, lambda: ssim_torchmetrics(made, truth), repeats)
    yield measure("psnr / scikit-image", lambda: psnr_ours(made, truth), lambda: psnr_peer(made, truth), repeats)
    both = lpips_pair()
    ours = lambda: both[0](made, truth).numpy()  # noqa: E731
    yield measure("lpips / lpips", ours, lambda: lpips_peer(both[1], made, truth), repeats)
    raft = motion.load_raft(options.raft, "small") if options.raft else None
    if raft is not None:
        few = made[:6]
        ours = lambda: motion.optical_flow(raft, few).numpy()  # noqa: E731
        yield measure("flow / RAFT pair by pair", ours, lambda: raft_peer(raft, few), repeats)
    rng = np.random.default_rng(0)
    for count, dimensions in ((940, 512), (200, 2048)):
        a, b = rng.normal(size=(count, dimensions)), rng.normal(0.1, 1.1, (count, dimensions))
        ours = lambda a=a, b=b: frechet.frechet_distance(a, b)  # noqa: E731
        yield measure(f"fréchet {count}x{dimensions} / sqrtm", ours, lambda a=a, b=b: frechet_peer(a, b), 1)
        theirs = lambda a=a, b=b: frechet_torchmetrics(a, b)  # noqa: E731
        yield measure(f"fréchet {count}x{dimensions} / torchmetrics", ours, theirs, 1)
    network = sync.SyncNet().eval()
    path = pairs[0].clip.path
    sound = (View(pairs[0]).sound * 32768).round().astype(np.int16)
    ours = lambda: syncnet_ours(network, path)  # noqa: E731
    yield measure("lse / published stages", ours, lambda: syncnet_peer(network, path, sound), repeats)
    yield measure("the set over a folder / one after another", *whole_set(pairs, raft, both), repeats)


if __name__ == "__main__":
    main()

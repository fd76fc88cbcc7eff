"""Every metric beside the peer a user would take instead, on the same clips in one run: equal
numbers, how much faster.

    python -m bench.scorers [FOLDER...] [--raft WEIGHTS] [--clips 4] [--frames 24] [--size 256] \\
        [--repeats 3]

Peers: scikit-image frame by frame, torchmetrics, `lpips`, pytorch-fid, SciPy's sqrtm for the
Fréchet distance, RAFT called pair by pair, and SyncNet's published stages with ffmpeg, files and
all (`bench.scorer_peers`). Then the whole set over a folder: ours as `flowportrait score` goes
through it, the peers one after another. Networks without reachable weights are filled with the same
random numbers on both sides: time and equality need no trained ones. Seconds are those of the
processor, of this process and of the programs it calls, the least of `--repeats` rounds in which
both sides take
turns: other work on the machine changes them little. "By the clock" means something on an idle
machine only.

    pip install 'flowportrait[bench,eval,scorers]'
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench import scorer_peers as peers
from flowportrait import media
from flowportrait.media import Clip
from flowportrait.scoring import Sample
from flowportrait.scoring.metrics import frechet, jitter, lse, networks, perceptual, pixel, raft
from flowportrait.scoring.metrics.metric import (
    FrameMetric,
    Metric,
    SetMetric,
    in_parallel,
    read_all,
)
from flowportrait.scoring.metrics.view import View


def now() -> tuple[float, float]:
    """Seconds of the processor and of the clock."""
    return processor_s(), time.perf_counter()


def processor_s() -> float:
    """Seconds of the processor so far, of this process and of its children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def measure(
    name: str, ours: Callable[[], np.ndarray], peer: Callable[[], np.ndarray], repeats: int
) -> dict:
    """Least seconds of both, in turns, and the largest relative difference of their numbers."""
    times: dict[str, list[np.ndarray]] = {"ours": [], "peer": []}
    results = {}
    for _ in range(repeats):
        for side, work in (("peer", peer), ("ours", ours)):
            started = np.array(now())
            results[side] = np.asarray(work(), np.float64)
            times[side].append(now() - started)
    (ours_s, ours_wall_s), (peer_s, peer_wall_s) = (
        np.min(times[side], 0).tolist() for side in ("ours", "peer")
    )
    scale = np.maximum(np.abs(results["peer"]).max(), 1e-12)
    if results["peer"].ndim == 1 and len(results["peer"]) < 12:
        # Several metrics: each beside its own size.
        scale = np.maximum(np.abs(results["peer"]), 1e-12)
    differences = np.abs(results["ours"] - results["peer"]) / scale
    row = {
        "metric": name,
        "ours_s": ours_s,
        "peer_s": peer_s,
        "ratio": peer_s / ours_s,
        "ours_wall_s": ours_wall_s,
        "peer_wall_s": peer_wall_s,
        "wall_ratio": peer_wall_s / ours_wall_s,
        "difference": float(differences.max()),
        "values": results["ours"].ravel()[:8].tolist(),
        "peer_values": results["peer"].ravel()[:8].tolist(),
    }
    print(json.dumps(row), flush=True)
    return row


# ------------------------------------------------------------------- ours, with networks that are
# given


def lpips_pair() -> tuple[perceptual.Lpips, torch.nn.Module]:
    """Ours and the `lpips` package's, on one AlexNet of random weights."""
    import lpips

    peer = lpips.LPIPS(net="alex", pretrained=True, pnet_rand=True, verbose=False).eval()
    trunk = torch.nn.Sequential(
        *(layer for i in range(1, 6) for layer in getattr(peer.net, f"slice{i}"))
    )
    state = {name: value.clone() for name, value in trunk.state_dict().items()}
    own = (
        networks.require("torchvision.models", extra="scorers")
        .alexnet(weights=None)
        .features[: len(trunk)]
    )
    own.load_state_dict(dict(zip(own.state_dict(), state.values(), strict=True)))
    return perceptual.Lpips("alex", own), peer


def inception_pair() -> tuple[torch.nn.Module, torch.nn.Module]:
    """Ours and pytorch-fid's, with one set of random weights."""
    own = networks.inception()
    for value in own.state_dict().values():
        if value.ndim > 1:
            torch.nn.init.kaiming_normal_(value)
    peer = peers.pytorch_fid_network(
        {name: value.clone() for name, value in own.state_dict().items()}
    )
    return networks.folded(own.eval()), peer


def raft_pair(path: Path) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Ours, prepared as scorers use it, and torchvision's as it comes, with the same weights."""
    own = raft.load_raft(path, "small")
    peer = networks.require("torchvision.models.optical_flow", extra="scorers").raft_small(
        weights=None
    )
    peer.load_state_dict(
        {
            name: value.clone(memory_format=torch.contiguous_format)
            for name, value in own.state_dict().items()
        }
    )
    return own, peer.eval()


class Given(FrameMetric):
    """LPIPS with a network that is given."""

    name, unit, low, high, better = "lpips", "1", 0.0, np.inf, "lower"
    needs = frozenset({"frames", "truth"})
    Config = perceptual.LpipsConfig

    def __init__(self, network: perceptual.Lpips):
        super().__init__()
        self.values = lambda a, b: perceptual._in_batches(network, a, b, self.config.batch_frames)

    conclude = perceptual.LpipsAlex.conclude


class GivenFid(frechet.Fid):
    """FID by frames with a network that is given."""

    weights_sha256 = ""

    def __init__(self, network: torch.nn.Module):
        super().__init__(self.Config(pool="frame"))
        self._of = partial(networks.inception_features, network)


class GivenFvd(frechet.FvdR3d18):
    """FVD of the first 16 frames with a network that is given."""

    weights_sha256 = ""
    _file = Path()

    def __init__(self, network: torch.nn.Module):
        super().__init__(self.Config(pieces="first"))
        frechet.load_r3d18 = lambda _: network


class GivenLse(lse.LseD):
    """LSE-D, and LSE-C with it, with a network that is given."""

    weights_sha256 = ""
    _file = Path()

    def __init__(self, network: lse.SyncNet, **settings: object):
        super().__init__(self.Config(**settings))
        lse.load_syncnet = lambda _: network

    def both(self, path: Path) -> list[float]:
        found = self._lse(View(Sample("clip", Clip(path))))
        return [found.distance, found.confidence]


class GivenLseC(GivenLse):
    """The other of the two: nothing is computed again."""

    name, read = "lse-c", lse.LseC.read


# -------------------------------------------------------------------------------------------- the
# whole set


class Peers:
    """The peers' networks."""

    def __init__(self, raft_weights: Path | None):
        self.lpips, self.inception = lpips_pair(), inception_pair()
        self.raft = raft_pair(raft_weights) if raft_weights else None
        self.syncnet, self.r3d18 = lse.SyncNet().eval(), networks.r3d18().eval()


def whole_set(
    samples: list[Sample], nets: Peers, weights: Path, with_sets: bool
) -> tuple[Callable, Callable]:
    """Ours over one decoding of each clip; the peers one after another as scripts would do it."""
    pairs = [(sample.clip.path, sample.truth.path) for sample in samples]
    metrics: list[Metric] = [
        pixel.Ssim(),
        pixel.Psnr(),
        Given(nets.lpips[0]),
        jitter.RaftJitter(jitter.RaftJitter.Config(weights=weights)),
        GivenLse(nets.syncnet),
        GivenLseC(nets.syncnet),
    ]
    sets = [GivenFid(nets.inception[0]), GivenFvd(nets.r3d18)] if with_sets else []

    def ours() -> np.ndarray:
        scores = list(read_all(((sample, metrics) for sample in samples), workers=2))
        found = [
            np.mean([s.value for s in scores if s.scorer == metric.name]) for metric in metrics
        ]
        for metric in sets:
            looks = partial(look, metric)
            seen = dict(in_parallel(looks, (path for pair in pairs for path in pair), workers=2))
            found.append(
                metric.compare(*([seen[pair[side]] for pair in pairs] for side in (0, 1))).value
            )
        return np.array(found)

    def theirs() -> np.ndarray:
        found = [peers.over_folder(pairs, peers.ssim), peers.over_folder(pairs, peers.psnr)]
        found.append(peers.over_folder(pairs, partial(peers.lpips, nets.lpips[1])))
        found.append(float(np.mean([peers.jitter(nets.raft[1], made) for made, _ in pairs])))
        found += np.mean([peers.syncnet(nets.syncnet, made) for made, _ in pairs], 0).tolist()
        if with_sets:
            found += [peers.fid(nets.inception[1], pairs), peers.fvd(nets.r3d18, pairs)]
        return np.array(found)

    return ours, theirs


def look(metric: SetMetric, path: Path) -> list[tuple[Path, np.ndarray]]:
    """A video's features."""
    return [(path, metric.features(View(Sample("clip", Clip(path)))))]


def make_pairs(
    folder: Path, sources: list[Path], count: int, frames: int, size: int
) -> list[Sample]:
    """Clips with their own sound, and slightly blurred copies of them as what was generated."""
    found = [sorted(source.glob("*.mp4")) for source in sources]
    each = -(-count // max(1, len(found)))
    chosen = [path for files in found for path in files[:: max(1, len(files) // each)][:each]][
        :count
    ]
    samples = []
    for index, path in enumerate(chosen):
        shown = np.stack(
            [
                frame
                for _, frame in zip(range(frames), media.read_frames(path, fps=25), strict=False)
            ]
        )
        shown = pixel.sized(shown, size, size)
        blurred = pixel.sized(pixel.sized(shown, size // 2, size // 2), size, size)
        sound = media.read_audio(path, 16_000, min_s=0.0).samples[: len(shown) * 640]
        sound = np.pad(sound, (0, len(shown) * 640 - len(sound)))
        for name, video in (("made", blurred), ("truth", shown)):
            media.write_video(folder / f"{index}-{name}.mp4", video, 25, sound, 16000, {})
        samples.append(
            Sample(
                str(index), *(Clip(folder / f"{index}-{name}.mp4") for name in ("made", "truth"))
            )
        )
    return samples


def main() -> None:
    """Prints one JSON line a metric and a table at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "sources", nargs="+", type=Path, help="folders of mp4 files that show faces"
    )
    parser.add_argument("--raft", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch; the scorers' two workers share them"
    )
    parser.add_argument("--only", default="", help="rows whose names hold this")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        samples = make_pairs(
            Path(name), options.sources, options.clips, options.frames, options.size
        )
        chosen = (row for row in rows(samples, options) if options.only in row[0])
        table = [measure(*row) for row in chosen]
    print(
        "\n| metric / peer | ours, s | peer, s | times less | by the clock | difference"
        f" |\n|{'---|' * 6}"
    )
    for row in table:
        times = (
            f"{row['ours_s']:.3f} | {row['peer_s']:.3f} | {row['ratio']:.2f} |"
            f" {row['wall_ratio']:.2f}"
        )
        print(f"| {row['metric']} | {times} | {row['difference']:.0e} |")


def rows(
    samples: list[Sample], options: argparse.Namespace
) -> Iterator[tuple[str, Callable, Callable, int]]:
    """(name, ours, the peer's, rounds)."""
    nets, repeats = Peers(options.raft), options.repeats
    for sample in samples:
        peers.find_boxes(sample.clip.path)
    first = samples[0].clip.path
    made, truth = View(samples[0]).pairs
    blurred = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    uniform, gaussian = (
        partial(pixel.ssim, made, truth, window) for window in ("uniform", "gaussian")
    )
    yield "ssim / scikit-image", uniform, lambda: peers.ssim(made, truth), repeats
    yield (
        "ssim gaussian / scikit-image",
        gaussian,
        lambda: peers.ssim(made, truth, **blurred),
        repeats,
    )
    yield (
        "ssim gaussian / torchmetrics",
        gaussian,
        lambda: peers.ssim_torchmetrics(made, truth),
        repeats,
    )
    ours = lambda: [pixel.psnr_db(error) for error in pixel.squared_error(made, truth)]  # noqa: E731
    yield "psnr / scikit-image", ours, lambda: peers.psnr(made, truth), repeats
    ours = lambda: perceptual._in_batches(nets.lpips[0], made, truth, 8)  # noqa: E731
    yield "lpips / lpips", ours, lambda: peers.lpips(nets.lpips[1], made, truth), repeats
    few = made[:9]
    ours = lambda: torch.cat(list(raft.flows_between(nets.raft[0], [few]))).numpy()  # noqa: E731
    yield "flow / RAFT pair by pair", ours, lambda: peers.flows(nets.raft[1], few).numpy(), repeats
    ours = lambda: networks.inception_features(nets.inception[0], made[:8])  # noqa: E731
    yield (
        "inception features / pytorch-fid",
        ours,
        lambda: peers.inception(nets.inception[1], made[:8]),
        repeats,
    )
    ours = lambda: networks.r3d18_features(nets.r3d18, made[None, :16], square=False)  # noqa: E731
    yield (
        "r3d-18 features / torchvision's preset",
        ours,
        lambda: peers.r3d18(nets.r3d18, made[:16]),
        repeats,
    )
    every = GivenLse(nets.syncnet, detect_every=1)
    yield (
        "lse / published stages",
        lambda: every.both(first),
        lambda: peers.syncnet(nets.syncnet, first),
        repeats,
    )
    usual = GivenLse(nets.syncnet)
    name = "lse, every 4th frame searched / published stages"
    yield name, lambda: usual.both(first), lambda: peers.syncnet(nets.syncnet, first), repeats
    rng = np.random.default_rng(0)
    for count, dimensions in ((940, 512), (200, 2048)):
        a, b = rng.normal(size=(count, dimensions)), rng.normal(0.1, 1.1, (count, dimensions))
        ours, size = partial(frechet.frechet_distance, a, b), f"{count}x{dimensions}"
        yield f"fréchet {size} / sqrtm", ours, partial(peers.frechet, a, b), 1
        yield f"fréchet {size} / torchmetrics", ours, partial(peers.frechet_torchmetrics, a, b), 1
    whole = partial(whole_set, samples, nets, options.raft)
    yield "the paper's six over a folder / one after another", *whole(False), repeats
    yield "the paper's six, fid and fvd over a folder / one after another", *whole(True), 1


if __name__ == "__main__":
    main()

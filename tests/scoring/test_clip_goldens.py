"""Numbers that the authors' own code gave for three public clips. The clips themselves may not be
passed on: the tests look for them, by their digests, in $FLOWPORTRAIT_CLIPS or in ../shared/clips,
and are skipped where they are not.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from bench import scorer_peers
from flowportrait.encoders.cepstra import mfcc
from flowportrait.faces.crop import crop_face
from flowportrait.media import Clip
from flowportrait.scoring import Sample
from flowportrait.scoring.metrics import jitter, lse, perceptual, pixel, raft
from flowportrait.scoring.metrics.view import View

models = pytest.importorskip("torchvision.models")
ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "scorers"
EXPECTED, ARRAYS = json.loads((GOLDEN / "clips.json").read_text()), np.load(GOLDEN / "clips.npz")
FOLDERS = [Path(os.environ.get("FLOWPORTRAIT_CLIPS", ROOT.parent / "shared" / "clips"))]
RAFT = ROOT.parent / "shared" / "weights" / "raft-small.pth"

spec = importlib.util.spec_from_file_location("recipes", GOLDEN / "recipes.py")
recipes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipes)


@cache
def files_by_digest():
    videos = (
        path
        for folder in FOLDERS
        for path in folder.rglob("*.mp4")
        if path.parent.name != "grid_s1"
    )
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in videos}


@pytest.fixture(params=EXPECTED)
def name(request):
    return request.param


@pytest.fixture
def clip(name):
    wanted = EXPECTED[name]
    found = files_by_digest().get(wanted["sha256"])
    if found is None:
        pytest.skip(
            f"set FLOWPORTRAIT_CLIPS to a folder with {wanted['from']} (sha256"
            f" {wanted['sha256'][:16]}...)"
        )
    return found


@pytest.fixture
def frames(clip):
    """The first 25 frames as `ffmpeg -vf scale=256:256:flags=bicubic+accurate_rnd+bitexact` makes
    them.
    """
    with av.open(str(clip)) as container:
        stream, graph, shown = container.streams.video[0], av.filter.Graph(), []
        graph.link_nodes(
            graph.add_buffer(template=stream),
            graph.add("scale", "256:256:flags=bicubic+accurate_rnd+bitexact"),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ).configure()
        for _, frame in zip(range(25), container.decode(stream), strict=False):
            graph.push(frame)
            shown.append(graph.pull().to_ndarray())
    return np.stack(shown)


def test_ssim_and_psnr(name, frames):
    following, far = EXPECTED[name]["next"], EXPECTED[name]["far"]
    assert pixel.ssim(frames[:-1], frames[1:], "uniform") == pytest.approx(
        following["ssim"], abs=1e-6
    )
    errors = pixel.squared_error(frames[:-1], frames[1:])
    assert [pixel.psnr_db(error) for error in errors] == pytest.approx(following["psnr"], abs=1e-6)
    assert pixel.psnr_db(errors.mean()) == pytest.approx(following["psnr_of_mean_mse"], abs=1e-6)
    for window in ("uniform", "gaussian"):
        assert pixel.ssim(frames[[0]], frames[[10]], window)[0] == pytest.approx(
            far[window], abs=1e-6
        )
    first, tenth = pixel.grey(frames[[0]]), pixel.grey(frames[[10]])
    assert pixel.ssim(first, tenth, "uniform")[0] == pytest.approx(far["grey"], abs=1e-6)


@pytest.mark.parametrize("trunk, seed", [("alex", 31), ("vgg", 32), ("squeeze", 33)])
def test_lpips(name, frames, trunk, seed):
    constructor = perceptual._CONSTRUCTORS[trunk]
    layers = (
        getattr(models, constructor)(weights=None, init_weights=False).features
        if trunk == "vgg"
        else None
    )
    layers = layers or getattr(models, constructor)(weights=None).features
    layers.load_state_dict(recipes.fill_state_dict(layers.state_dict(), seed))
    found = perceptual.Lpips(trunk, layers)(frames[[0]], frames[[10]])
    assert float(found[0]) == pytest.approx(EXPECTED[name]["lpips"][trunk], rel=1e-5)


@pytest.mark.skipif(not RAFT.is_file(), reason="../shared/weights/raft-small.pth is not there")
def test_flow_and_jitter(name, frames):
    flows = torch.cat(list(raft.flows_between(raft.load_raft(RAFT, "small"), [frames[:4]])))
    assert flows.norm(dim=1).mean((1, 2)).tolist() == pytest.approx(
        EXPECTED[name]["mean_flow_px"], rel=5e-4
    )
    for epsilon, readings in EXPECTED[name]["jitter"].items():
        for reading, expected in readings.items():
            assert jitter.jitter(flows, reading, float(epsilon)).tolist() == pytest.approx(
                expected, rel=5e-4
            )
    for index in (0, 1):
        if f"{name}_flow{index}" in ARRAYS:
            off = np.abs(flows[index, :, ::8, ::8].numpy() - ARRAYS[f"{name}_flow{index}"])
            assert off.max() < 2e-3 and off.mean() < 1e-4


@pytest.mark.skipif(not RAFT.is_file(), reason="../shared/weights/raft-small.pth is not there")
def test_jitter_of_a_shaken_clip(name, frames):
    if name != "sam_altman_result":
        pytest.skip("the numbers are of one clip")
    expected = json.loads((GOLDEN / "raft_jitter.json").read_text())["clip_sam_altman_jittered_2px"]
    moves = np.random.RandomState(3).randint(-2, 3, (12, 2))
    shaken = np.stack(
        [np.roll(frame, move, (0, 1)) for frame, move in zip(frames, moves, strict=False)]
    )
    flows = torch.cat(list(raft.flows_between(raft.load_raft(RAFT, "small"), [shaken])))
    assert flows.norm(dim=1).mean((1, 2)).tolist() == pytest.approx(expected["mean_mag"], rel=5e-4)
    for epsilon in ("1e-08", "1e-06", "0.001", "0.01", "1"):
        for key, reading in (
            ("A_pixel_ratio_then_mean", "pixels"),
            ("B_ratio_of_means", "means"),
            ("C_global_l2_ratio", "norms"),
        ):
            got = jitter.jitter(flows, reading, float(epsilon)).numpy()
            assert got == pytest.approx(np.array(expected[f"eps={epsilon}"][key]), rel=5e-4)


def test_mfcc(name, clip):
    """Of the very sound that the authors' code was given. Decoders of AAC differ in a level here
    and there: that of ffmpeg 5.1 makes this sound, PyAV's own nearly so.
    """
    program = shutil.which("ffmpeg") or pytest.skip("the program ffmpeg is not there")
    command = [program, "-v", "error", "-i", clip, "-ac", "1", "-ar", "16000", "-f", "s16le", "-"]
    sound = subprocess.run(command, capture_output=True, check=True).stdout
    if hashlib.sha256(sound).hexdigest() != EXPECTED[name]["sound_sha256"]:
        pytest.skip("this ffmpeg decodes the sound otherwise than 5.1.9, which made the numbers")
    samples = np.frombuffer(sound, np.int16)
    assert (
        np.abs(mfcc(samples)[::12] - ARRAYS[f"{name}_mfcc"]).max() < 1e-5
    )  # they are kept in float32
    levels = np.abs(View(Sample(name, Clip(clip))).pcm.astype(int) - samples)
    assert levels.max() <= 1 and levels.mean() < 1e-3


@pytest.fixture
def cut(name, clip, tmp_path):
    """The video of the face that the authors' commands make of the first 5 s: they code the sound
    as MP3 and show the first frame or two twice, which the numbers contain. The box is where a
    detector saw the face in frame 0.
    """
    for library in ("cv2", "scipy"):
        pytest.importorskip(library, reason=f"{library} comes with flowportrait[bench]")
    if shutil.which("ffmpeg") is None:
        pytest.importorskip("imageio_ffmpeg", reason="no ffmpeg; flowportrait[bench] brings one")
    return scorer_peers.syncnet_cut(tmp_path, clip, EXPECTED[name]["box"], seconds=5)


@pytest.fixture(scope="module")
def network():
    """SyncNet with the numbers' own random weights: only the arithmetic is meaningful."""
    network = lse.SyncNet()
    state = recipes.fill_state_dict(network.state_dict(), 2024)
    buffers = np.load(GOLDEN / "syncnet_bn.npz")
    network.load_state_dict(state | {key: torch.from_numpy(buffers[key]) for key in buffers})
    return network.eval()


def test_lse_through_the_authors_files(name, cut, network):
    expected = EXPECTED[name]["lse"]
    pictures, samples = scorer_peers.syncnet_files(cut, cut.parent / "again")
    assert (len(pictures), len(samples)) == (expected["num_frames"], expected["num_samples"])
    lips, sounds = lse.embeddings(network, [pictures[..., ::-1]], samples)
    found = lse.lse(lips, sounds)
    assert (found.offset, found.num_windows) == (expected["offset"], 121)
    assert (found.distance, found.confidence) == pytest.approx(
        (expected["distance"], expected["confidence"]), rel=1e-4
    )
    means = lse.distances(lips, sounds).mean(0).numpy()
    assert means == pytest.approx(ARRAYS[f"{name}_mean_distances"], rel=1e-4)


def test_lse_of_a_clip_that_is_cut_already(name, cut, network, monkeypatch):
    """The scorer itself, which reads the video without the last JPEG files."""
    monkeypatch.setattr(lse, "load_syncnet", lambda _: network)
    monkeypatch.setattr(lse.LseD, "_file", Path())
    expected, view = EXPECTED[name]["lse"]["decoded_directly"], View(Sample(name, Clip(cut)))
    read = lse.LseD(lse.LseConfig(crop="none")).read(view)
    assert read.value == pytest.approx(expected["distance"], rel=1e-4)
    assert lse.LseC(lse.LseConfig(crop="none")).read(view).value == pytest.approx(
        expected["confidence"], rel=1e-4
    )


def test_lse_crops_as_the_authors_do(name, cut, network):
    """Our own cut of the authors' pictures differs by what XVID and JPEG leave of theirs: under 1
    %.
    """
    x0, y0, x1, y1 = EXPECTED[name]["box"]
    place = (x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, y1 - y0) / 2
    files = sorted((cut.parent / "frames").glob("*.jpg"))
    crops = np.stack([crop_face(np.asarray(Image.open(file)), *place) for file in files])
    samples = View(Sample(name, Clip(cut))).pcm
    found = lse.lse(*lse.embeddings(network, [crops], samples))
    expected = EXPECTED[name]["lse"]["decoded_directly"]
    assert (found.distance, found.confidence) == pytest.approx(
        (expected["distance"], expected["confidence"]), rel=0.01
    )

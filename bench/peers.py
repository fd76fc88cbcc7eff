"""Processor seconds a frame: our whole generator beside the networks of MuseTalk, in one run.

    pip install 'flowportrait[bagel]'
    python -m bench.peers [--seconds 4] [--frames 2] [--out bench_peers.json]

MuseTalk (MIT) paints a mouth of 256 px with one evaluation of Stable Diffusion's U-Net (8 channels
in, conditioned on 384 features of Whisper) and that model's autoencoder. Both are built here from
their published sizes with constant weights, since time needs no trained ones; face parsing, audio
and pasting back are left out. Ours is everything from portrait and sound to encoded video, in the
same process with as many threads.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from flowportrait.generate import load
from flowportrait.media import read_audio
from flowportrait.registry import MODELS_DIR

SAMPLES = MODELS_DIR.parent / "samples"
UNET = {
    "in_channels": 8,
    "out_channels": 4,
    "sample_size": 32,
    "cross_attention_dim": 384,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
}
AUTOENCODER = {
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


def built(kind: type[nn.Module], sizes: dict) -> nn.Module:
    """A network with constant weights; drawing a billion random ones would take longer than this
    bench.
    """
    with torch.device("meta"):
        network = kind(**sizes)
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.fill_(0.01)
    return network


def musetalk_frame() -> Callable[[], object]:
    """One frame of MuseTalk's real-time mode: the avatar's latents are known, the mouth is painted
    and decoded.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet, autoencoder = built(UNet2DConditionModel, UNET), built(AutoencoderKL, AUTOENCODER)
    latents, speech = torch.zeros(1, 8, 32, 32), torch.zeros(1, 50, 384)
    time_step = torch.tensor([0])

    def frame() -> object:
        painted = unet(latents, time_step, encoder_hidden_states=speech).sample
        return autoencoder.decode(painted).sample

    return frame


def ours(seconds: float, size: int) -> float:
    """Processor seconds a frame, encoding of the mp4 included, the model loaded before."""
    pipeline, sound = load("tiny", "cpu"), read_audio(SAMPLES / "speech.wav")
    speech = sound.samples[: round(seconds * sound.sample_rate)], sound.sample_rate
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        made = pipeline.generate(SAMPLES / "portrait-512.png", speech, size=size)
        made.save(Path(folder) / "talking.mp4")
        return (time.process_time() - started) / made.num_frames


@torch.inference_mode()
def seconds_of(frame: Callable[[], object], count: int) -> float:
    """Processor seconds of one call, the least of `count` after a first one."""
    frame()
    found = []
    for _ in range(count):
        started = time.process_time()
        frame()
        found.append(time.process_time() - started)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of speech, for ours")
    parser.add_argument("--frames", type=int, default=2, help="of the peer")
    parser.add_argument("--out", type=Path, default=Path("bench_peers.json"))
    options = parser.parse_args()
    rows = {f"ours, {size} px": ours(options.seconds, size) for size in (128, 256, 512)}
    rows["MuseTalk's networks, 256 px"] = seconds_of(musetalk_frame(), options.frames)
    figures = {"threads": torch.get_num_threads(), "cpu_s_per_frame": rows}
    options.out.write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

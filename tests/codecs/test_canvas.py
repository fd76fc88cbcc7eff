"""The portrait's own pixels in motion, at any size."""

import pytest
import torch

from flowportrait.codecs.canvas import Canvas, Painted, colour_line, cubic_matrix, on_colour_line
from flowportrait.codecs.painter import REACH, Drafts, smoothed

MODEL_PX = 64


def picture(side, seed=0):
    return (
        torch.randint(0, 256, (1, 3, side, side), generator=torch.Generator().manual_seed(seed))
        / 127.5
        - 1
    )


def painted(flow=(0.0, 0.0), paint=0.0, mask=1.0, frames=1, warped=0.0):
    fields = (
        torch.tensor(flow)[None, :, None, None]
        .expand(frames, 2, MODEL_PX // 2, MODEL_PX // 2)
        .clone()
    )
    full = (frames, 3, MODEL_PX, MODEL_PX)
    paint = (
        torch.as_tensor(paint, dtype=torch.float32).expand(full)
        if not torch.is_tensor(paint)
        else paint
    )
    return Painted(
        fields, torch.full(full, warped), paint, torch.full((frames, 1, MODEL_PX, MODEL_PX), mask)
    )


@pytest.mark.parametrize("side", [64, 100, 254, 512])
def test_a_portrait_that_does_not_move_is_shown_to_the_last_bit(side):
    pixels = picture(side)
    as_bytes = lambda x: ((x + 1) * 127.5).round().byte()  # noqa: E731
    assert torch.equal(as_bytes(Canvas(pixels).show(painted())), as_bytes(pixels))


def test_a_flow_moves_the_full_picture():
    pixels = picture(256)
    shown = Canvas(pixels).show(painted(flow=(8 * 2 / 256, 0.0)))
    torch.testing.assert_close(
        shown[..., 10:-10, 10:-10], pixels[..., 10:-10, 18:-2], atol=1e-4, rtol=0
    )


def test_places_that_take_no_part_do_not_move():
    moving = torch.ones(1, 1, 64, 64)
    moving[..., 32:] = 0
    pixels = picture(256)
    shown = Canvas(pixels, moving=moving).show(painted(flow=(0.1, 0.05), paint=1.0, mask=0.3))
    torch.testing.assert_close(shown[..., 150:], pixels[..., 150:], atol=1e-5, rtol=0)
    assert (shown[..., 20:100] - pixels[..., 20:100]).abs().mean() > 0.1


def test_a_canvas_that_lies_on_its_side_moves_along_its_own_axes():
    """The square is turned clockwise by a quarter: its x axis points down on the canvas."""
    pixels = picture(128)
    shown = Canvas(pixels, roll=torch.pi / 2).show(painted(flow=(16 * 2 / 128, 0.0)))
    torch.testing.assert_close(
        shown[..., 4:100, 4:-4], pixels[..., 20:116, 4:-4], atol=1e-3, rtol=0
    )


def test_painting_adds_what_it_changes_and_keeps_the_detail_below():
    pixels = picture(256) * 0.3
    shown = Canvas(pixels).show(painted(paint=0.5, mask=0.8))
    torch.testing.assert_close(shown, pixels + 0.2 * 0.5, atol=1e-5, rtol=0)


def test_where_paint_alone_is_meant_no_detail_of_the_portrait_is_left():
    shown = Canvas(picture(256)).show(painted(paint=0.5, mask=0.0))
    torch.testing.assert_close(shown, torch.full_like(shown, 0.5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("tint", [(1.0, 1.0, 1.0), (1.0, 0.8, 0.6)])
def test_a_grey_or_toned_portrait_stays_so(tint):
    pixels = picture(128)[:, :1] * torch.tensor(tint)[None, :, None, None]
    line = colour_line(pixels)
    assert line is not None
    red = torch.tensor([0.8, -0.5, -0.5])[None, :, None, None].expand(1, 3, MODEL_PX, MODEL_PX)
    shown = Canvas(pixels, grey=line).show(painted(paint=red, mask=0.0))
    missed = on_colour_line(shown, line) - shown
    assert missed.abs().max() < 1e-4


def test_a_coloured_portrait_has_no_line_of_colours():
    assert colour_line(picture(64)) is None


def test_interpolation_keeps_constants_and_ramps_and_is_exact_at_equal_sizes():
    torch.testing.assert_close(cubic_matrix(32, 32, torch.device("cpu")), torch.eye(32))
    matrix = cubic_matrix(32, 200, torch.device("cpu"))
    torch.testing.assert_close(matrix.sum(1), torch.ones(200))
    at = (torch.arange(200) + 0.5) * 32 / 200 - 0.5
    inside = (at > 1) & (at < 30)
    torch.testing.assert_close((matrix @ torch.arange(32.0))[inside], at[inside], atol=1e-4, rtol=0)


def drafts(values):
    n = len(values)
    fine = values[:, None, None, None].expand(n, 2, 4, 4)
    rest = torch.arange(float(n))
    return Drafts(fine, fine.permute(0, 2, 3, 1), *(rest[:, None] for _ in range(4)))


@pytest.mark.parametrize("lengths", [[40], [4] * 10, [1, 3, 12, 24], [2, 38]])
def test_smoothing_gives_every_frame_once_and_the_same_in_any_blocks(lengths):
    values = torch.randn(40, generator=torch.Generator().manual_seed(0))
    whole = torch.cat([block.fine for block in smoothed([drafts(values)])])
    pieces = list(
        smoothed(
            drafts(values).rows(a, a + b) for a, b in zip(_starts(lengths), lengths, strict=True)
        )
    )
    torch.testing.assert_close(torch.cat([block.fine for block in pieces]), whole)
    assert torch.cat([block.landmarks for block in pieces]).flatten().tolist() == list(range(40))


def test_a_jump_at_every_fourth_frame_is_spread_over_all():
    """Frame changes at the borders of groups come within 10 % of those inside."""
    steps = torch.arange(80).div(4, rounding_mode="floor").float()
    change = torch.cat([block.fine for block in smoothed([drafts(steps)])])[:, 0, 0, 0].diff()[
        REACH:-REACH
    ]
    assert change.max() < 1.1 * change.min()


def _starts(lengths):
    return [sum(lengths[:index]) for index in range(len(lengths))]

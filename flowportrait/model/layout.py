"""Where everything of a clip sits: seconds, frames, latent frames, tokens, and positions in time.

One clip is [audio tokens][image tokens][video tokens]. Audio has one token per video frame; a
latent frame has `rows x cols` tokens of `patch x patch` cells each. Positions are times: whatever
covers the same moment has the same position, so lips and sound meet by an index rule rather than by
learning an offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from flowportrait.tensors import Latents, Tokens


@dataclass(frozen=True)
class TokenGrid:
    """The token layout of one window of a clip.

    `opening` says that the window starts the clip, so that its latent frame 0 stands for video
    frame 0 alone; in any other window every latent frame covers `temporal_stride` video frames.
    Times count from the window's first video frame. `image_rows x image_cols` is the grid of the
    portrait's tokens.
    """

    latent_frames: int
    rows: int
    cols: int
    image_rows: int = 8
    image_cols: int = 8
    patch: int = 2
    temporal_stride: int = 4
    fps: float = 24.0
    opening: bool = True

    @classmethod
    def of_latents(cls, latents: Latents, patch: int, opening: bool) -> TokenGrid:
        """The layout of these latents where the image has as many tokens as a latent frame."""
        rows = latents.shape[-2] // patch
        cols = latents.shape[-1] // patch
        return cls(
            latents.shape[2],
            rows,
            cols,
            rows,
            cols,
            patch=patch,
            opening=opening,
        )

    @property
    def num_frames(self) -> int:
        """Video frames of the window, which is also its number of audio tokens."""
        alone = self.temporal_stride - 1 if self.opening else 0
        return self.temporal_stride * self.latent_frames - alone

    @property
    def tokens_per_latent_frame(self) -> int:
        return self.rows * self.cols

    @property
    def num_video_tokens(self) -> int:
        return self.latent_frames * self.tokens_per_latent_frame

    @property
    def num_image_tokens(self) -> int:
        return self.image_rows * self.image_cols

    @property
    def tokens_per_second(self) -> float:
        """Video tokens that one second of video costs."""
        return self.fps / self.temporal_stride * self.tokens_per_latent_frame

    def audio_positions(self, per_second: float) -> Float[Tensor, " a"]:
        """Position of each audio token; token i belongs to video frame i."""
        return torch.arange(self.num_frames, dtype=torch.float32) * (per_second / self.fps)

    def image_positions(self) -> Float[Tensor, " i"]:
        """All image tokens share the position one before the window starts; a table tells them
        apart.
        """
        return torch.full((self.num_image_tokens,), -1.0)

    def latent_positions(self, per_second: float) -> Float[Tensor, " l"]:
        """Position of each latent frame: the centre of the video frames that it covers."""
        last_frame = torch.arange(self.latent_frames, dtype=torch.float32) * self.temporal_stride
        if not self.opening:
            last_frame = last_frame + self.temporal_stride - 1
        centre = (last_frame - (self.temporal_stride - 1) / 2).clamp(min=0)
        return centre * (per_second / self.fps)

    def video_positions(self, per_second: float) -> Float[Tensor, " n"]:
        """Position of each video token: that of its latent frame."""
        return self.latent_positions(per_second).repeat_interleave(self.tokens_per_latent_frame)

    def patchify(self, latents: Latents) -> Tokens:
        """Tokens ordered (latent frame, row, col), their features (row in patch, col in patch,
        channel).
        """
        p = self.patch
        return rearrange(latents, "b c l (row p) (col q) -> b (l row col) (p q c)", p=p, q=p)

    def unpatchify(self, tokens: Tokens) -> Latents:
        """The latents that `patchify` made these tokens of."""
        shape = {
            "l": self.latent_frames,
            "row": self.rows,
            "p": self.patch,
            "q": self.patch,
        }
        return rearrange(tokens, "b (l row col) (p q c) -> b c l (row p) (col q)", **shape)


@dataclass(frozen=True)
class RowLayout:
    """Clips of any lengths packed into one row: the audio of all, then the image of all; and the
    video of all.
    """

    grids: tuple[TokenGrid, ...]

    @property
    def audio_lengths(self) -> tuple[int, ...]:
        """Audio tokens of each clip."""
        return tuple(grid.num_frames for grid in self.grids)

    @property
    def image_lengths(self) -> tuple[int, ...]:
        """Image tokens of each clip."""
        return tuple(grid.num_image_tokens for grid in self.grids)

    @property
    def video_lengths(self) -> tuple[int, ...]:
        """Video tokens of each clip."""
        return tuple(grid.num_video_tokens for grid in self.grids)

    @property
    def num_tokens(self) -> int:
        """All tokens of the row."""
        return sum(self.audio_lengths) + sum(self.image_lengths) + sum(self.video_lengths)

    def audio_positions(self, per_second: float) -> Float[Tensor, " a"]:
        """Position of each audio token within its clip."""
        return torch.cat([grid.audio_positions(per_second) for grid in self.grids])

    def image_positions(self) -> Float[Tensor, " i"]:
        """Position of each image token within its clip."""
        return torch.cat([grid.image_positions() for grid in self.grids])

    def video_positions(self, per_second: float) -> Float[Tensor, " n"]:
        """Position of each video token within its clip."""
        return torch.cat([grid.video_positions(per_second) for grid in self.grids])

    def latent_frame_of_token(self) -> Int[Tensor, " n"]:
        """The latent frame that each video token belongs to, counted over all clips of the row."""
        per_frame = [
            grid.tokens_per_latent_frame for grid in self.grids for _ in range(grid.latent_frames)
        ]
        return torch.arange(len(per_frame)).repeat_interleave(torch.tensor(per_frame))

    def patchify(self, latents: Sequence[Latents]) -> Tokens:
        """Video tokens of the clips' latents."""
        return torch.cat(
            [grid.patchify(z) for grid, z in zip(self.grids, latents, strict=True)], dim=1
        )

    def unpatchify(self, tokens: Tokens) -> list[Latents]:
        """The latents of each clip."""
        return [
            grid.unpatchify(own)
            for grid, own in zip(self.grids, tokens.split(self.video_lengths, dim=1), strict=True)
        ]


def latent_frames_for(num_frames: int, temporal_stride: int = 4) -> int:
    """The fewest latent frames of a whole clip that cover `num_frames` >= 1 video frames."""
    return 1 + -(-(num_frames - 1) // temporal_stride)


@dataclass(frozen=True)
class Window:
    """Latent frames `start` to `stop` of a clip; the first `prefix` of them are known already."""

    start: int
    stop: int
    prefix: int


def plan_windows(total: int, longest: int, prefix: int) -> list[Window]:
    """The fewest windows of at most `longest` latent frames that cover `total`, of nearly equal
    size.
    """
    count = 1 + max(0, -(-(total - longest) // (longest - prefix)))
    size, larger = divmod(total + prefix * (count - 1), count)
    windows: list[Window] = []
    for index in range(count):
        start = 0
        if windows:
            start = windows[-1].stop - prefix
        windows.append(
            Window(
                start,
                start + size + (index < larger),
                prefix if windows else 0,
            )
        )
    return windows

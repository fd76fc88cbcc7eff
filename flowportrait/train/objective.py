"""Eq. 2 on rows of packed clips: what every supervised training of the generator minimises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from flowportrait.flow import interpolate, target_velocity
from flowportrait.model.layout import RowLayout
from flowportrait.model.mot import MoT, PackedRow
from flowportrait.model.sequence import SequenceShare


@dataclass(frozen=True)
class CleanRow:
    """`b` rows of clips of one layout as they are in the data: features of all clips one after
    another, latents [b, c, l, h, w] of each.
    """

    layout: RowLayout
    audio: Float[Tensor, "b a da"]
    image: Float[Tensor, "b i di"]
    latents: Sequence[Tensor]


def velocity_errors(
    model: MoT,
    clips: CleanRow,
    t: Float[Tensor, "b l"],
    noise: Sequence[Tensor],
    share: SequenceShare | None = None,
) -> Float[Tensor, "b n p"]:
    """Predicted minus true velocity (Eq. 2) of every video token, or of this process's `share` of
    them.

    `t` is per latent frame of all clips; a latent frame at 0 stands clean and has no error. `noise`
    is shaped like the latents.
    """
    z0 = clips.layout.patchify(clips.latents)
    z1 = clips.layout.patchify(noise)
    times = t[:, clips.layout.latent_frame_of_token().to(t.device), None]
    z_t = interpolate(z0, z1, times)
    v = model(PackedRow(clips.layout, clips.audio, clips.image, z_t, t, share))
    mine = slice(None) if share is None else share.span
    return (v - target_velocity(z0, z1)[:, mine]) * (times[:, mine] > 0)

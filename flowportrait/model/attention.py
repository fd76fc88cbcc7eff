"""Attention over packed rows: unmasked calls between spans of tokens, so that nothing grows with
the row squared.

A row holds the blocks of its clips by kind: [audio of all clips][image of all clips], and [video of
all clips] apart. §3.1's rule then takes three calls per clip, each without a mask: audio sees
audio, the image sees audio and image, video sees all. On CUDA the calls of all clips are one kernel
launch each (`torch.nn.attention.varlen`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from flowportrait.model.sequence import SequenceShare

Lengths = tuple[int, ...]
HALF = (torch.float16, torch.bfloat16)


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention; every group of query heads shares a key head."""
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=allowed, enable_gqa=q.shape[1] != k.shape[1]
    )


def attend_spans(q: Tensor, k: Tensor, v: Tensor, q_lengths: Lengths, k_lengths: Lengths) -> Tensor:
    """Each span of queries sees the span of keys of the same clip: q [b, heads, n, e], k and v [b,
    kv heads, m, e].
    """
    if len(q_lengths) == 1:
        return attend(q, k, v)
    if q.is_cuda and q.dtype in HALF:
        return _attend_varlen(q, k, v, q_lengths, k_lengths)
    if len(set(q_lengths)) == len(set(k_lengths)) == 1:
        count = len(q_lengths)
        heads = attend(*(_clips_as_batch(x, count) for x in (q, k, v)))
        return heads.unflatten(0, (-1, count)).transpose(1, 2).flatten(2, 3)
    calls = zip(
        q.split(q_lengths, 2),
        k.split(k_lengths, 2),
        v.split(k_lengths, 2),
        strict=True,
    )
    return torch.cat([attend(*call) if call[0].shape[2] else call[0] for call in calls], dim=2)


def _clips_as_batch(x: Tensor, count: int) -> Tensor:
    """[b, heads, clips n, e] as [b clips, heads, n, e]."""
    return x.unflatten(2, (count, -1)).transpose(1, 2).flatten(0, 1)


def _attend_varlen(
    q: Tensor, k: Tensor, v: Tensor, q_lengths: Lengths, k_lengths: Lengths
) -> Tensor:
    """One kernel for all spans of all rows of the batch; it wants tokens first and cumulative
    lengths.
    """
    from torch.nn.attention.varlen import varlen_attn

    batch = q.shape[0]
    longest = (max(q_lengths), max(k_lengths))
    edges = [_edges(lengths * batch, q.device) for lengths in (q_lengths, k_lengths)]
    tokens_first = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
    heads = varlen_attn(
        *tokens_first,
        *edges,
        *longest,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return heads.unflatten(0, (batch, -1)).transpose(1, 2)


@lru_cache(maxsize=64)
def _edges(lengths: Lengths, device: torch.device) -> Tensor:
    """Where spans begin and end, int32 [spans + 1]; copied to the device once for all layers and
    evaluations, since each copy would make the host wait for it.
    """
    # The backward keeps it, also where sampling was the first to ask.
    with torch.inference_mode(False):
        return torch.tensor(
            [0, *accumulate(lengths)],
            dtype=torch.int32,
            device=device,
        )


@dataclass(frozen=True)
class Spans:
    """Tokens of each clip of a row by kind; 0 where a block was dropped. `share` is this process's
    part of the video tokens, where several processes share the row.
    """

    audio: Lengths
    image: Lengths
    video: Lengths
    share: SequenceShare | None = None

    def condition(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of audio and image tokens: audio among audio, the image among audio and image
        of its clip.
        """
        num_audio = sum(self.audio)
        found = []
        if num_audio:
            heard = (x[:, :, :num_audio] for x in (q, k, v))
            found.append(attend_spans(*heard, self.audio, self.audio))
        if sum(self.image):
            keys = self._by_clip((k, self.audio + self.image))
            values = self._by_clip((v, self.audio + self.image))
            found.append(
                attend_spans(q[:, :, num_audio:], keys, values, self.image, self._seen_by_image)
            )
        return torch.cat(found, dim=2)

    def generate(
        self, q: Tensor, k: Tensor, v: Tensor, known: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Attention of video tokens to all tokens of their clip; `known` are keys and values of
        audio and image.
        """
        q_lengths = k_lengths = self.video
        if self.share is not None:
            q_lengths = self.share.lengths(self.video)
            k, v = self.share.gather(k, v)
        if known is not None:
            blocks = (
                ((old, self.audio + self.image) for old in known),
                ((new, self.video) for new in (k, v)),
            )
            k, v = (self._by_clip(*pair) for pair in zip(*blocks, strict=True))
            k_lengths = tuple(map(sum, zip(self._seen_by_image, self.video, strict=True)))
        return attend_spans(q, k, v, q_lengths, k_lengths)

    @property
    def _seen_by_image(self) -> Lengths:
        return tuple(map(sum, zip(self.audio, self.image, strict=True)))

    def _by_clip(self, *rows: tuple[Tensor, Lengths]) -> Tensor:
        """Tokens that lie by kind, brought into the order of clips; those of one clip are in order
        already.
        """
        count = len(self.video)
        if count == 1:
            if len(rows) > 1:
                return torch.cat([row for row, _ in rows], dim=2)
            return rows[0][0]
        pieces = [piece for row, lengths in rows for piece in row.split(lengths, dim=2)]
        return torch.cat([piece for clip in range(count) for piece in pieces[clip::count]], dim=2)

"""A small encoded dataset of clips of many lengths, for the toy pipeline; and a loss that breaks on
demand.
"""

import torch

from flowportrait.config import load_recipe
from flowportrait.data.encoded import EncodedHeader, begin, finish, shard_path, write_shard
from flowportrait.modeldir import ModelSpec
from flowportrait.records import EncodedClip
from flowportrait.train import sft
from flowportrait.train.encode import parts_digest

LENGTHS = (9, 2, 5, 3, 8, 4, 2, 7, 6, 3)  # latent frames
POISONED = "clips/clip_4"  # breaks in update 1 when asked to


def save_encoded(root, model):
    """Ten training clips and two held-out ones with random latents and features, in three
    shards.
    """
    spec = load_recipe(model / "config.json", ModelSpec)
    rng = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=rng).half()  # noqa: E731
    header = EncodedHeader(
        made_of=parts_digest(spec),
        model=spec.name,
        settings={},
        channels=4,
        rows=6,
        cols=6,
        temporal_stride=4,
        fps=24.0,
        audio_dim=2,
        image_dim=3,
        image_rows=2,
        image_cols=2,
    )
    begin(root, header)
    clips = [(f"clip_{number}", "train", length) for number, length in enumerate(LENGTHS)]
    clips += [("held_0", "held_out", 4), ("held_1", "held_out", 12)]
    for shard in range(3):
        tensors, records, path = {}, [], shard_path(root, shard)
        for name, split, length in clips[shard * 4 : shard * 4 + 4]:
            tensors |= {
                f"{name}/audio": draw(4 * length - 3, 2),
                f"{name}/latents.0": draw(4, length, 6, 6),
            }
            tensors |= {f"{name}/image.{portrait}": draw(4, 3) for portrait in range(2)}
            records.append(
                EncodedClip(
                    id=name,
                    shard=path.name,
                    split=split,
                    latent_frames=length,
                    num_portraits=2,
                    latents_each=False,
                )
            )
        write_shard(path, tensors, records, [])
    finish(root, [shard_path(root, shard) for shard in range(3)])
    return root


def poison(replace):
    """From now on one clip's loss is nan in update 1, as a broken latent's would be."""
    sound = sft.clip_losses

    def clip_losses(session, row, rng):
        losses = sound(session, row, rng)
        if session.state.update != 1:
            return losses
        hit = torch.tensor([n == POISONED for n in sft.names(row.cuts)], device=losses.device)
        return torch.where(hit, losses * float("nan"), losses)

    replace(sft, "clip_losses", clip_losses)

"""Prompts: cut from clips by (seed, draw) alone, as long as whole latent frames, from folders and
from a manifest.
"""

import json

import numpy as np
import pytest

from flowportrait.errors import DataError
from flowportrait.train.prompts import Prompts, PromptsConfig


@pytest.fixture(scope="module")
def prompts(small_world):
    return Prompts(
        PromptsConfig(world=small_world), size_px=64, max_latent_frames=5, temporal_stride=4
    )


def test_a_prompt_is_a_stretch_with_its_sound(prompts):
    prompt = prompts.draw(0, 0)
    assert prompt.truth.shape == (17, 64, 64, 3) and prompt.latent_frames == 5
    assert len(prompt.sound.samples) == round(17 / 24 * 16_000)
    left, top, right, bottom = prompt.mouth
    assert 16 < left < 32 < right < 48 and 32 < top < bottom < 64


def test_the_same_draw_is_the_same_prompt_and_an_epoch_holds_every_clip(prompts):
    count = len(prompts.train)
    one, same = prompts.draw(3, 1), prompts.draw(3, 1)
    assert np.array_equal(one.truth, same.truth) and one.key == same.key
    assert {prompts.draw(3, draw).key for draw in range(count)} == {
        source.key for source in prompts.train
    }
    starts = [prompts.draw(3, draw) for draw in range(0, 4 * count, count)]
    assert len({prompt.sound.samples.tobytes() for prompt in starts}) > 1


def test_held_out_prompts_are_other_clips(prompts):
    count = len(prompts.held_out)
    held_out = {prompts.held_out_prompt(i, count).key for i in range(count)}
    assert held_out == {source.key for source in prompts.held_out}
    assert len({prompts.held_out_prompt(i, 2).key for i in range(2)}) == 2
    assert not held_out & {source.key for source in prompts.train}


def test_a_manifest_gives_the_same_clips(tmp_path, small_world, prompts):
    rows = [
        {
            "id": source.key,
            "video": str(source.video),
            "num_frames": 44,
            "fps": 24,
            "size_px": 128,
            "sample_rate_hz": 16000,
            "split": split,
        }
        for split, sources in (("train", prompts.train), ("held_out", prompts.held_out))
        for source in sources
    ]
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = PromptsConfig(manifest=path, max_latent_frames=3, random_start=False)
    prompt = Prompts(config, size_px=64, max_latent_frames=5, temporal_stride=4).draw(0, 0)
    assert prompt.latent_frames == 3 and prompt.mouth is None
    path.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(DataError, match="no clip of the held_out split"):
        Prompts(config, size_px=64, max_latent_frames=5, temporal_stride=4)

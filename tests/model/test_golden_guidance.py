"""The rest of tests/golden/bagel_tiny: guidance away from two lesser contexts, and gradients with a
frozen expert.
"""

import pytest
import torch
from golden_bagel import END_OF_IMAGE, START_OF_IMAGE, model, numbers, owned, text
from torch.testing import assert_close

from flowportrait import flow
from flowportrait.model.blocks import GEN
from flowportrait.model.embed import rope_table
from flowportrait.model.layout import TokenGrid
from flowportrait.model.mask import Attend, allowed
from flowportrait.model.packed import Packed, packed_forward
from flowportrait.sampling import Schedule, guided, sample

CLOSE = {"atol": 1e-5, "rtol": 0}
TEXT, IMAGE = 5, 8  # tokens of the context, the image with its markers


@pytest.fixture(scope="module")
def mot():
    return model().requires_grad_(False)


def velocity_after(mot, keeps_text: bool, keeps_image: bool):
    """(z, t) -> velocity of 2 x 2 latent tokens with markers, behind a context that may lack a
    part. Positions are counted anew in every context: a text's tokens one each, an image's share
    one.
    """
    context = numbers("native_llm")["packed_sequence_in"][: TEXT + IMAGE]
    parts, positions, splits = [], [], []
    if keeps_text:
        parts.append(context[:TEXT])
        positions += range(TEXT)
        splits.append((TEXT, Attend.CAUSAL))
    if keeps_image:
        parts.append(context[TEXT:])
        positions += [max(positions, default=-1) + 1] * IMAGE
        splits.append((IMAGE, Attend.FULL))
    known = len(positions)
    positions += [max(positions) + 1] * 6
    mask = allowed([[*splits, (6, Attend.NOISE)]])
    start, end = text(mot, [START_OF_IMAGE]), text(mot, [END_OF_IMAGE])
    video = known + torch.tensor([1, 2, 3, 4])

    def velocity(z, t):
        latents = (
            mot.vae2llm(z) + mot.time_embedder(torch.full((4,), t)) + mot.latent_pos_embed(2, 2)
        )
        tokens = torch.cat([*parts, start, latents, end])
        packed = Packed(tokens, torch.tensor(positions).float(), owned(video, len(tokens)), mask)
        return mot.llm2vae(packed_forward(mot, packed)[-1][video])

    return velocity


def renormed(guided_velocity, plain, dim):
    """A guided velocity that is at most as long as the unguided one, over all its numbers (dim
    None) or per token.
    """

    def velocity(z, t):
        v, to = guided_velocity(z, t), plain(z, t)
        norms = (
            (to.norm(), v.norm())
            if dim is None
            else (to.norm(dim=dim, keepdim=True), v.norm(dim=dim, keepdim=True))
        )
        return v * (norms[0] / (norms[1] + 1e-8)).clamp(max=1)

    return velocity


@pytest.mark.parametrize("kind", ["global", "channel", "text_channel"])
@pytest.mark.parametrize("with_image", [False, True])
def test_guidance(mot, with_image, kind):
    """Scale 2 away from the context without text, and 1.5 away from the one without image."""
    golden = numbers("kvcache_sampler")
    velocity = guided_as_bagel(mot, with_image, kind)
    found = sample(velocity, golden["init_noise"], Schedule(evaluations=4, shift=3.0))
    assert_close(found, golden[f"cfg.text2.0{'_img1.5' * with_image}.{kind}.n5.shift3"], **CLOSE)


def test_guidance_within_an_interval_of_times(mot):
    golden = numbers("kvcache_sampler")
    inside, outside = guided_as_bagel(mot, False, "global"), velocity_after(mot, True, True)
    velocity = lambda z, t: inside(z, t) if 0.4 < t <= 1 else outside(z, t)  # noqa: E731
    found = sample(velocity, golden["init_noise"], Schedule(evaluations=4, shift=3.0))
    assert_close(found, golden["cfg.text2.0.global.n5.shift3.interval0.4_1.0"], **CLOSE)


def guided_as_bagel(mot, with_image, kind):
    """Guidance twice, renormed after the first (text_channel) or after both."""
    plain, no_text, no_image = (
        velocity_after(mot, *keeps) for keeps in ((True, True), (False, True), (True, False))
    )
    velocity = guided(plain, no_text, 2.0)
    if kind == "text_channel":
        velocity = renormed(velocity, plain, dim=-1)
    if with_image:
        velocity = guided(velocity, no_image, 1.5)
    if kind != "text_channel":
        velocity = renormed(velocity, plain, dim=-1 if kind == "channel" else None)
    return velocity


def test_gradients_with_the_understanding_expert_frozen(monkeypatch):
    """Keys and values of audio and image without a gradient, as reinforcement learning shares them:
    the generation expert's gradients are those of BAGEL's freeze_und, and the other has none.
    """
    mot, golden, expected = model(), numbers("portrait"), numbers("grads")
    grid, positions = TokenGrid(3, 2, 3), golden["int.position_ids"].float()
    ropes = [
        rope_table(part, mot.config.head_size, mot.config.rope_theta)
        for part in (positions[:16], positions[16:])
    ]
    tokens = torch.cat([golden["audio_embed"], golden["vit_tokens"]])[None]
    video = golden["video_tokens_in"][None].clone().requires_grad_()
    monkeypatch.setattr(mot, "_condition_tokens", lambda *inputs: (tokens, ropes[0]))
    monkeypatch.setattr(mot, "_video_tokens", lambda *inputs: (video, ropes[1]))
    # Ten audio tokens and six of the image, whatever the grid of the clip would say.
    monkeypatch.setattr(TokenGrid, "num_frames", 10)
    monkeypatch.setattr(TokenGrid, "num_image_tokens", 6)
    with torch.no_grad():
        condition = mot.condition(tokens[:, :10], tokens[:, 10:], grid)
    velocity = grid.patchify(
        mot.velocity(torch.zeros(1, 4, 3, 4, 6), torch.zeros(1, 3), condition, grid)
    )[0]
    assert_close(velocity, golden["int.v_pred"], **CLOSE)
    target = flow.target_velocity(golden["video_latent_tokens_clean"], golden["video_noise"])
    loss = ((velocity - target) ** 2).mean()
    loss.backward()
    assert_close(loss[None], expected["freeze_und.loss"], **CLOSE)
    assert_close(video.grad[0], expected["freeze_und.grad_sequence_in"][16:], **CLOSE)
    assert not expected["freeze_und.grad_sequence_in"][:16].any()
    weights = dict(mot.named_parameters())
    norms = {
        name.split("gradnorm.")[1]: norm
        for name, norm in expected.items()
        if "freeze_und.gradnorm." in name
    }
    assert sum(GEN in name for name in norms) > 25
    for name, norm in norms.items():
        gradient = weights[name].grad
        assert_close(
            (torch.zeros(()) if gradient is None else gradient.norm())[None], norm, **CLOSE
        )

"""SigLIP as BAGEL runs it: every number of tests/golden/bagel_tiny/vit, and pictures of any
shape.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from flowportrait.encoders.siglip import SiglipConfig, SiglipEncoder
from flowportrait.model.embed import Connector, GridPositions

FOLDER = Path(__file__).parents[1] / "golden" / "bagel_tiny"
CONFIG = SiglipConfig(
    size_px=32,
    width=32,
    num_layers=2,
    num_heads=4,
    mlp_size=48,
    patch_px=4,
    side=8,
    shortest_px=8,
    longest_px=32,
)
CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def golden():
    return load_file(FOLDER / "vit.safetensors")


@pytest.fixture(scope="module")
def weights():
    return load_file(FOLDER / "weights.safetensors")


@pytest.fixture(scope="module")
def encoder(weights):
    encoder = SiglipEncoder(CONFIG)
    encoder.load_state_dict(
        {k.removeprefix("vit_model."): v for k, v in weights.items() if k.startswith("vit_model.")}
    )
    return encoder.eval()


@torch.no_grad()
def test_golden_layer_by_layer(encoder, golden):
    """Two pictures of different shapes, 2 x 3 and 4 x 2 patches, which do not see each other."""
    found = {
        name: []
        for name in (
            "patch_tokens",
            "position_ids",
            "vit_embed",
            "vit_layer0_out",
            "vit_layer1_out",
            "out",
        )
    }
    for name in ("image0", "image1"):
        picture = golden[name][None]
        rows, cols = encoder.grid_of(*picture.shape[-2:])
        patches, places = encoder.patches(picture, rows, cols), encoder.places(rows, cols)
        x = encoder.embed(patches, places)
        stages = [patches[0], places, x[0]]
        for layer in encoder.vision_model["encoder"]["layers"]:
            x = layer(x)
            stages.append(x[0])
        for stage, value in zip(found, [*stages, encoder(picture, None)[0]], strict=True):
            found[stage].append(value)
    assert torch.equal(torch.cat(found.pop("position_ids")), golden["position_ids"])
    found["vit_post_layernorm"] = found.pop("out")
    for name, parts in found.items():
        assert_close(torch.cat(parts), golden[name], **CLOSE)


@torch.no_grad()
def test_golden_connector_and_table(weights, golden):
    connector = Connector(32, 64)
    connector.load_state_dict(
        {k.removeprefix("connector."): v for k, v in weights.items() if k.startswith("connector.")}
    )
    tokens = connector(golden["vit_post_layernorm"][None])[0]
    assert_close(tokens, golden["connector_out"], **CLOSE)
    table = GridPositions(8, 64)
    places = torch.cat([table(2, 3), table(4, 2)])
    assert_close(places, golden["vit_pos_embed"], **CLOSE)
    assert_close(tokens + places, golden["tokens_for_llm"], **CLOSE)


@pytest.mark.parametrize(
    ("height", "width", "grid"),
    [
        (384, 384, (27, 27)),  # the paper's pictures
        (980, 980, (70, 70)),
        (1960, 980, (70, 35)),  # the longer side decides, the shape stays
        (112, 224, (16, 32)),  # the shorter side is enlarged to 224 px
        (100, 2000, (4, 70)),  # and never past 980 px
    ],
)
def test_pictures_keep_their_shape(height, width, grid):
    with torch.device("meta"):
        encoder = SiglipEncoder(SiglipConfig())
    assert encoder.grid_of(height, width) == grid
    rows, cols = grid
    assert abs(rows / cols - height / width) <= 0.5 / min(grid) * max(1, height / width)


def test_every_patch_keeps_its_row_and_column():
    encoder = SiglipEncoder(CONFIG.model_copy(update={"side": 70, "num_layers": 1}))
    assert encoder.places(2, 3).tolist() == [0, 1, 2, 70, 71, 72]

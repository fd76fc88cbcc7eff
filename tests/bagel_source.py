"""Folders as they are published, with tiny random weights: BAGEL, a Wan-VAE in both layouts, speech
networks.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

GOLDEN = Path(__file__).parent / "golden"
LANGUAGE = {"rope_theta": 1e6, "rms_norm_eps": 1e-6, "hidden_size": 64, "num_hidden_layers": 2}
VISION = {"num_attention_heads": 4, "num_hidden_layers": 3, "layer_norm_eps": 1e-6}
WHISPER = {
    "model_type": "whisper", "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "num_mel_bins": 80, "max_source_positions": 100, "decoder_layers": 1,
    "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "vocab_size": 50, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    "_name_or_path": "someone/whisper", "architectures": ["WhisperModel"],
}  # fmt: skip
WAV2VEC2 = {
    "model_type": "wav2vec2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "conv_dim": [8] * 7, "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2, "vocab_size": 32, "transformers_version": "4.0",
}  # fmt: skip


def bagel(folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """The golden tiny BAGEL in the files of the published one."""
    folder.mkdir(parents=True)
    weights = load_file(GOLDEN / "bagel_tiny" / "weights.safetensors")
    save_file(
        {name: value.to(dtype) for name, value in weights.items()}, folder / "ema.safetensors"
    )
    save_file(
        {"encoder.conv_in.weight": torch.zeros(2)}, folder / "ae.safetensors"
    )  # FLUX's codec lies beside it
    (folder / "llm_config.json").write_text(json.dumps(LANGUAGE))
    (folder / "vit_config.json").write_text(json.dumps(VISION))
    return folder


def wan(folder: Path) -> Path:
    """A Wan-VAE of 4 channels as diffusers saves it."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    torch.manual_seed(0)
    mean, std = [0.1, -0.2, 0.3, 0.0], [1.0, 2.0, 0.5, 1.5]
    AutoencoderKLWan(base_dim=4, z_dim=4, latents_mean=mean, latents_std=std).save_pretrained(
        folder
    )
    return folder


def whisper(folder: Path) -> Path:
    """A whole Whisper, of which only the encoder is wanted."""
    import transformers

    torch.manual_seed(0)
    folder.mkdir(parents=True)
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**WHISPER))
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items() if k != "proj_out.weight"},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(WHISPER))
    return folder


def wav2vec2(folder: Path) -> Path:
    """A wav2vec2 with a head, as older repositories have it: a pickle, with the former names of a
    normed weight.
    """
    import transformers

    torch.manual_seed(0)
    folder.mkdir(parents=True)
    values = {name: value for name, value in WAV2VEC2.items() if name != "model_type"}
    state = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**values)).state_dict()
    for old, new in (("original0", "weight_g"), ("original1", "weight_v")):
        state = {
            name.replace(f"parametrizations.weight.{old}", new): value
            for name, value in state.items()
        }
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(WAV2VEC2))
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    return folder

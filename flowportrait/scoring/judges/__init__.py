"""Multimodal language models as judges: how they are asked and what is believed."""

"""Metrics that are computed: pixels, networks, landmarks, sound."""

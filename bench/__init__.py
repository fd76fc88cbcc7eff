"""Measurements of the shipped model; needs the repository (not the installed package) and optional weights."""

"""Measurements of the shipped model. They need the repository, not just the package, and optional
weights.
"""

"""Trainers of the shipped weights of `tiny` alone: codec, mouths, ear, generator from scratch."""

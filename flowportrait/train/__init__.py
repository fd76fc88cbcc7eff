"""Training: a recipe goes in and a run directory comes out."""

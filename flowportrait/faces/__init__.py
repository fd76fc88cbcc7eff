"""Faces: where they are, how a portrait is framed, and what their points say."""

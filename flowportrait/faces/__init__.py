"""Faces: detection, framing of portraits, and landmarks."""

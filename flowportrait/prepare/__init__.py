"""Footage to clips that a model is trained on (Appendix B): one source after another."""

"""The tables and figures of the paper, and a page of them, from what lies on disk."""

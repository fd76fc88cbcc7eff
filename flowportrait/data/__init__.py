"""Data: portraits framed, clips read, batches made."""

"""What gives a clip a number."""

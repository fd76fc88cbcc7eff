"""What only makes the shipped weights of `tiny`: codec, mouths, ear, generator from scratch."""

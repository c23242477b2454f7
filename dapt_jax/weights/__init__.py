"""First weights from a generator: a zoo of trained networks, a codec, and what samples them."""

"""First weights: populations of trained networks, their encoding, generators of new ones."""

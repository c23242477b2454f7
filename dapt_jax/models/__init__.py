"""Reference models (Flax Linen) and the convolution they share; start at `model.create`."""

"""Weights to weights, in NumPy: reading checkpoints and giving their tensors canonical names."""

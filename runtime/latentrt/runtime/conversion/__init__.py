"""From weights to a bundle, without PyTorch."""

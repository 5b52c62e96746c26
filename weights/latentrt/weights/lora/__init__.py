"""LoRA files: their spellings and kinds, and the weights that they change."""

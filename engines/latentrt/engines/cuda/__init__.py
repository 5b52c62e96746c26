"""The NVIDIA GPU: its name, its memory, its libraries."""

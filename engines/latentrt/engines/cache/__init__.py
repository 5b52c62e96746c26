"""Compiled engines on disk."""

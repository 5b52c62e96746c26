"""Traced graphs: those that ship with the package, and what points them at weights."""

"""Graph + weights + sizes -> a callable from named arrays to named arrays."""

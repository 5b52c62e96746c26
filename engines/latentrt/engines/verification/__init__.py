"""Engines compared with a reference before their first use."""

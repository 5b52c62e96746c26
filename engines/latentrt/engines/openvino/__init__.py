"""Engines of OpenVINO."""

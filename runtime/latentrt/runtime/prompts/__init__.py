"""Prompts as people write them: weights, schedules, several prompts, and chunks of tokens."""

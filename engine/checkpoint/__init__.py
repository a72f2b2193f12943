"""Checkpoints: where their files are, what they hold, and how they are written."""

"""Checkpoints: written in one piece, verified when read."""

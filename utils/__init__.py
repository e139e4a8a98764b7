"""Helpers that are not the experiment: video files, checkpoints, logging."""

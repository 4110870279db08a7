"""Loggers, sample predictions, provenance and the console report of a run."""

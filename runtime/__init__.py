"""Keeping a run alive: command line, processes, checkpoints, preemption, resume."""

"""Data sources, rows, batches, and the order in which rows are read."""

"""Answers to questions that have no truth: read from pictures and tables, kept as JSON lines and annotated pictures."""

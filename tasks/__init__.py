"""The tasks; each is one file, from TSV columns to prompt and target, from model output to answer and score."""

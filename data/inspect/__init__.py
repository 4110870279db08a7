"""What is in a TSV file, before a model is trained on it: `python -m data.inspect FILE`."""

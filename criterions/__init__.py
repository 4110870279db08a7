"""Losses. They know tensors (logits, targets, features), not tasks or files."""

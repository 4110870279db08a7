"""Losses of knowledge distillation: on logits, on intermediate features, and the layer mapping."""

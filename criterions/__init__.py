"""What training minimises. Criterions know tensors: decoder states, targets, logits; nothing of tasks or files."""

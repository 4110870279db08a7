"""What a student learns from its teacher: losses on logits and on intermediate states, and which layers are matched."""

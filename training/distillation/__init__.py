"""Training with a teacher: plan, teacher, teacher cache, initialization and training step of the student."""

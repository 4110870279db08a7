"""The model's side of each task: questions to prompts, tokens to answers."""

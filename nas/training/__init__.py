"""Training: tasks, recipes, the training loop and its checkpoints."""

"""Where model, task and criterion meet: the Lightning module, its optimizer and callbacks, and the start of a run."""

"""Published files converted to those this project reads, one command each."""

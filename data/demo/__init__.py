"""Generated data with the truth for every task: scenes, their description in words, and the files made of both."""

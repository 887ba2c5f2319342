"""Questions: published data sets and user files become one table of questions with gold answers."""

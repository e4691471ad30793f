"""Two revisions of a project, built apart and timed against each other."""

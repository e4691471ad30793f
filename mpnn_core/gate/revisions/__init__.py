"""Two revisions of a project, timed against each other in processes that are restarted often."""

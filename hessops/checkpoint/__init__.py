"""Products kept in a folder, so that a run that was killed goes on where it was."""

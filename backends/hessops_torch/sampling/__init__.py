"""How far what is computed on a sample of data lies from the same on the whole of it."""

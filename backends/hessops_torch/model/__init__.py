"""A model as it stands: which of its parameters are meant, and how it is left as it was found."""

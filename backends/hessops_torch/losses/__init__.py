"""A loss as a sum and a count, and its derivatives by the outputs of a model."""

"""A loss of a model over a data set, of which operators are derivatives."""

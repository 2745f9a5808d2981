"""Operators on parameters, on outputs and on activations, made of a model, a loss and data."""

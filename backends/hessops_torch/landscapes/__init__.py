"""The loss along directions from the parameters, with the curvature at the centre."""

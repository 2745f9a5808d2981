"""The curvature of layers, or of any blocks of parameters."""

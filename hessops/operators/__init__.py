"""The nodes that operators are made of: sums, products, shifts, diagonals, projections."""

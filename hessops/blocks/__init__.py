"""Linear algebra of tall blocks of vectors: bases, orthogonalisation, QR, rounding."""

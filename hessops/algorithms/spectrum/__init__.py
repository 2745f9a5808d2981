"""One block Krylov run that answers every question about a spectrum."""

"""Data that is dealt out to ranks, and the ranks of torch.distributed."""

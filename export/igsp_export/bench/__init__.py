"""Latency and throughput of a bundle beside plain CLIP and PyTorch, on this machine."""

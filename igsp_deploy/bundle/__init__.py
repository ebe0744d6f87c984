"""The bundle: what export writes and serving reads. Nothing here imports torch."""

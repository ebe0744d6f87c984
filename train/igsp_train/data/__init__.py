"""Training images: their order, their augmented views, and the processes that decode them."""

"""Models of any size without training, to measure speed and size with."""

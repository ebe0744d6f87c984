"""The commands of learning: one a file."""

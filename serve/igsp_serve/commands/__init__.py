"""The commands of serving: one a file."""

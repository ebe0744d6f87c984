"""The commands of export: one a file."""

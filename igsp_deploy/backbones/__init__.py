"""Backbones that travel inside the package."""

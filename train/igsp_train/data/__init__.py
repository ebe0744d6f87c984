"""From a folder or a manifest to images and labels of one task."""

"""Classification of images with an exported bundle; onnxruntime only, no torch."""

"""What runs a bundle with onnxruntime, without torch."""

"""Export: from a model folder to one ONNX bundle, checked for parity."""

"""igsp-deploy: keep teaching one frozen CLIP new recognition tasks, and ship it as one ONNX bundle."""

__version__ = "0.1.0"

"""The Open Inference Protocol: one core, over HTTP (`/v2`) and over gRPC."""

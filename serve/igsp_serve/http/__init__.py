"""The service over HTTP: FastAPI, and what stands before it. Needs the extra `serve`."""

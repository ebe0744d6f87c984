"""The demo: a page that classifies, shows what the model has learned, and teaches it a new task. Gradio, no torch."""

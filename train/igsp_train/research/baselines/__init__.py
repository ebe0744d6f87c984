"""The methods iGSP is measured against, on the same features, with the same steps and the same prompts."""

"""Studies: methods and settings compared on the same frozen features, run by run, resumable."""

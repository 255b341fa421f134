"""The demo VARs: a small codec and small transformers on the shapes world, and their training."""

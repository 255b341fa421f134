"""The class-conditional demo DiT with skip branches, its twin without, and their training."""

"""Tiny trained models and the world they were trained on, so that caching can be tried without a 24 GB download."""

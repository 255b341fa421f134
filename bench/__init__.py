"""Benchmarks in the real host: `./encore bench NAME`. Every one writes rows of the one schema in rows.py."""

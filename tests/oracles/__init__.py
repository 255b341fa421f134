"""What the caches are compared with: plain loops written from the papers, and what the demo models really show on their way."""

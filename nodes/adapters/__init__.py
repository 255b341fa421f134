"""Everything that knows how ComfyUI samples: the rest of nodes/ is schemas."""

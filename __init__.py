"""Encore for ComfyUI: what ComfyUI looks for, and nothing else."""

if __package__:  # pytest collects this file without a package
    from .nodes import EncoreExtension

    async def comfy_entrypoint() -> EncoreExtension:
        """The extension that ComfyUI loads."""
        return EncoreExtension()


WEB_DIRECTORY = "./web"

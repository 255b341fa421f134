"""./encore serve: ComfyUI with the pack and the demo models, for a browser."""

from .paths import HOSTS
from .server import serving
from .setup import Host


def serve(host: Host, port: int) -> int:
    """Serve until Ctrl-C; what the user saves stays in `.comfyui/home`."""
    with serving(host, HOSTS / "home", "serve", port) as server:
        print(
            f"ComfyUI with Encore: {server.address} (Ctrl-C ends it; demo workflows: menu Workflow, Browse Templates, encore)", flush=True
        )
        try:
            server.process.wait()
        except KeyboardInterrupt:
            print("Stopped", flush=True)
            return 0
        server.check_alive()
    return 0

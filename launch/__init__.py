"""The commands of ./encore: a set-up, a running ComfyUI, the demo and the tests."""

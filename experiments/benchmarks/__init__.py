"""Speed of the transformer beside Python loops and PyTorch: `transformer` on any machine, `gpu` on an NVIDIA GPU."""

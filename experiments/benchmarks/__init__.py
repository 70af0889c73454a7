"""Speed: each benchmark is a command with a config of its own.

`samplers` and `adaptive` time solvers on exact fields, `transformer` one network beside Python
loops and PyTorch on any machine, `gpu` the same on an NVIDIA GPU, `parallel` and `overlap` the
programs that run over several devices.
"""

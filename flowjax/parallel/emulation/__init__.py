"""The parallel algorithms on one device and in any precision: the oracles of the mesh."""

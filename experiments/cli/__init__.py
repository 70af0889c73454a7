"""What all commands use: flags, the run itself, images, labels, meshes."""

"""What the commands share: configurations, images, labels, meshes."""

"""A pipeline of layers over the devices, through which patches of the image follow each other."""

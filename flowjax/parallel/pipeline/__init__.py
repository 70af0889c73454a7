"""A pipeline of layers through which patches of the image follow each other."""

"""Sampling one image on many devices."""

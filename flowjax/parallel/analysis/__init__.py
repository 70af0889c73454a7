"""What can be said of a parallel run without running it: compiled programs and latency."""

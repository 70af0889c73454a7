"""Facts of a parallel run before it runs: its compiled program and a model of its seconds."""

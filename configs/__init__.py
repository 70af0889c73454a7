"""One configuration a file: its docstring holds the command, the run time and what to expect."""

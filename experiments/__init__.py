"""One module a question: `run(config, workdir)` measures rows, `report(workdir)` draws them."""

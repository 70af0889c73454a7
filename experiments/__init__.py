"""Commands that measure and draw: `run(config, workdir)` adds rows, `report(workdir)` draws."""

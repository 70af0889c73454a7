"""What the questions share: solvers, subjects, converged solutions, statistics."""

"""The peers' numbers (solvers/, models/) and what computes ours beside them.

python -m tests.golden [FOLDER]           solvers, grids, schedules and guidance
python -m tests.golden_models [FOLDER]    networks and autoencoders
"""

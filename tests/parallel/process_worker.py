"""One of several processes that sample together, with commands on its standard input.

    python -m tests.parallel.process_worker RANK COUNT PORT OUT

It compiles, prints "compiled" and waits: on a busy machine processes are ready minutes apart, and a
collective waits half a minute for its peers. The command "once" samples and writes OUT. The command
"forever" samples until the process ends, and prints "sampled" each time.
"""

import sys

import jax
import numpy as np

DEVICES = 4  # of all processes together
# Seconds after which a silent process counts as dead. At their end the others wait as long again.
LIMIT = 10


def setting():
    """(model, noise, label, plan, mesh), the same in every process."""
    import flowjax
    from flowjax import grids, models, parallel, plans

    model = models.init(
        models.DiTConfig((3, 3), 1, patch=1, width=8, depth=1, heads=2, classes=3),
        jax.random.key(0),
    )
    # An untrained network has zero gates, and nothing would be exchanged.
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.2 * random.normal(size=leaf.shape), model.params
    )
    noise = np.asarray(flowjax.draw_noise(jax.random.key(1), range(2), (3, 3, 1)))
    plan = plans.dpm_solver_sde(flowjax.Linear(), grids.uniform(4), 2)
    return (
        model._replace(params=params),
        noise,
        np.array([0, 2]),
        plan,
        parallel.make_mesh(seq=DEVICES),
    )


def main(rank, count, port, out):
    """Join the others, compile, and follow the commands."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", DEVICES // count)
    jax.distributed.initialize(
        f"localhost:{port}",
        count,
        rank,
        heartbeat_timeout_seconds=LIMIT,
        shutdown_timeout_seconds=LIMIT,
    )
    from flowjax import parallel

    run, args, _ = parallel.program(*setting(), attention="stale", key=jax.random.key(3))
    run = run.lower(*args).compile()
    print("compiled", flush=True)
    command = sys.stdin.readline().strip()
    while True:
        x = run(*args)[0]
        # Every device ends with all tokens of the image.
        image = np.asarray(x.addressable_shards[0].data)
        if command == "once":
            np.save(out, image)
            break
        print("sampled", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])

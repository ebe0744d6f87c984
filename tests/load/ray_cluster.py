"""A Ray of one machine that serves a bundle, told what to do by lines on stdin.

Answers with lines on stdout that begin with `> `.

python -m tests.load.ray_cluster BUNDLE --port 8000

deploy BUNDLE   deploys another bundle; `deployed` once all replicas have it
replicas        process ids of the replicas
quit
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
from ray import serve
from ray.serve._private import api as starting

from igsp_serve.ray_app import app

STORE_BYTES = 100 * 2**20
START_S = 600


def replicas() -> list[int]:
    """Process ids of replicas that this process's Ray has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _is_ours(int(entry.name)):
            try:
                name = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if name.startswith(b"ray::ServeReplica"):
                found.append(int(entry.name))
    return sorted(found)


def _say(*words: object) -> None:
    """Ray writes to stdout as well: ours can be told."""
    print(">", *words, flush=True)


def _is_ours(pid: int) -> bool:
    """A descendant of this process."""
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.ray_cluster", description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    options = {"replicas": 2, "cpus": 0, "provider": "cpu", "threads": 1}
    # Its sockets have names of at most 107 letters: a short folder.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        # A minute is not always enough on a machine that has other work.
        vars(starting)["HTTP_PROXY_TIMEOUT"] = START_S
        serve.start(http_options={"host": "127.0.0.1", "port": given.port})

        def deploy(bundle: str) -> None:
            serve.run(app({"bundle": bundle, **options}), name="igsp", route_prefix="/")
            _say("deployed")

        deploy(given.bundle)
        for line in sys.stdin:
            command, _, rest = line.strip().partition(" ")
            if command == "deploy":
                deploy(rest)
            elif command == "replicas":
                _say(*replicas())
            else:
                break
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()

"""Runs of train.py and evaluate.py, one after the other, by processes that are forked from one: quick to start.

    python forked.py '[["evaluate", 3, ["task=refcoco", ...]], ...]'    # program, number of processes, words

They find each other as those of torchrun do, by variables of their environment.
"""

import json
import os
import socket
import sys

import evaluate
import train

PROGRAMS = {"train": train.train, "evaluate": evaluate.evaluate}


def run(program, processes, words):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for local in range(processes):
        child = os.fork()
        if not child:
            sys.argv = [program, *words]
            if processes > 1:
                os.environ |= {
                    "RANK": str(local),
                    "LOCAL_RANK": str(local),
                    "WORLD_SIZE": str(processes),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                }
            PROGRAMS[program]()
            sys.exit()
        children.append(child)
    if any(os.waitpid(child, 0)[1] for child in children):
        sys.exit(f"{program} {words} failed")


if __name__ == "__main__":
    for job in json.loads(sys.argv[1]):
        run(*job)

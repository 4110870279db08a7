"""Distributed runs of train.py and evaluate.py, one after the other, in processes that are forked and start quickly.

    python forked.py '[["evaluate", 3, ["task=refcoco", ...], 0], ...]'    # program, processes, overrides, exit status

The processes find each other through environment variables, like those of torchrun.
"""

import json
import os
import signal
import socket
import sys
from dataclasses import replace

import torch

import evaluate
import train
from runtime.collectives import rank
from training.module import TrainingModule

LAST_OF_TWO = 1  # the rank that gets the signal or the invalid losses


def train_signalled():
    """Training in which only one process gets a signal, in its third step."""

    def loss(module, batch, original=TrainingModule.loss):
        if rank() == LAST_OF_TWO and module.global_step == 2:
            signal.raise_signal(signal.SIGUSR1)
        return original(module, batch)

    TrainingModule.loss = loss
    train.train()


def train_spoilt():
    """Training in which only one process has non-finite losses, in its second step.

    Each process saves its final weights as `weights<rank>.pt`.
    """

    def loss(module, batch, original=TrainingModule.loss):
        found = original(module, batch)
        is_spoilt = rank() == LAST_OF_TWO and module.global_step == 1
        return replace(found, sum=found.sum * float("nan")) if is_spoilt else found

    def on_train_end(module):
        torch.save(module.model.state_dict(), f"weights{rank()}.pt")

    TrainingModule.loss, TrainingModule.on_train_end = loss, on_train_end
    train.train()


PROGRAMS = {
    "train": train.train,
    "train_signalled": train_signalled,
    "train_spoilt": train_spoilt,
    "evaluate": evaluate.evaluate,
}


def run(program, processes, overrides, status):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for local in range(processes):
        child = os.fork()
        if not child:
            sys.argv = [program, *overrides]
            if processes > 1:
                ranks = {"RANK": str(local), "LOCAL_RANK": str(local), "WORLD_SIZE": str(processes)}
                os.environ |= {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            PROGRAMS[program]()
            sys.exit()
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(other != status for other in statuses):
        sys.exit(f"{program} {overrides}: {statuses}")


if __name__ == "__main__":
    for job in json.loads(sys.argv[1]):
        run(*job)

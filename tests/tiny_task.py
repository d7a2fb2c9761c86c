"""A training task small enough to be killed, split and compared:

masked targets, dropout. Shared by the tests and by the processes they start.
"""

import torch
from torch import nn


class Batch(tuple):
    def part(self, rows):
        return Batch(t[rows] for t in self)


def draw(generator):
    x = torch.randn(32, 5, generator=generator)
    mask = (torch.rand(32, generator=generator) > 0.3).float()
    return Batch((x, x.square().sum(1), mask))


def loss(model, batch):
    e = (model(batch[0])[:, 0] - batch[1]) * batch[2]
    return e.square().sum(), batch[2].sum()


def net(dropout, width=16):
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(5, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1)
    )

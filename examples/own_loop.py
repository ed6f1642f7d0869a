"""Your own training loop, with a parameter server in three lines.

On one machine a launcher starts all of it:

    leash launch --workers 2 --policy ssp --bound 3 --lr 0.1 --momentum 0.5 examples/own_loop.py

By hand, start the server, then this script once per worker, on as many machines as you like:

    leash server --workers 2 --policy ssp --bound 3 --lr 0.1 --momentum 0.5
    python examples/own_loop.py --server tcp://127.0.0.1:29500 --rank 1 &
    python examples/own_loop.py --server tcp://127.0.0.1:29500 --rank 2

On several machines, with keys, so that nobody else takes part:

    leash keys new keys --workers 2
    leash server --bind tcp://0.0.0.0:29500 --keys keys --workers 2 --lr 0.1 --momentum 0.5
    LEASH_KEY=worker-1.key python examples/own_loop.py --server tcp://HOST:29500 --rank 1

This model learns at that rate with one worker and with four. Others may want a smaller one, the
more workers there are: docs/start.md says why.
"""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from leash import PSOptimizer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--server", metavar="tcp://HOST:PORT")  # a launcher tells it,
    parser.add_argument("--rank", type=int)  # and this
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    torch.manual_seed(0)  # the first values are those of the lowest rank, whatever the others have
    model = nn.Sequential(
        nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)
    )
    model.to(args.device)

    optimizer = PSOptimizer(model.named_parameters(), server=args.server, rank=args.rank)  # 2
    rank = optimizer.client.rank

    # Every worker has data of its own: here, points of two interleaved spirals.
    torch.manual_seed(rank)
    points, labels = spirals(500)
    batches = DataLoader(TensorDataset(points, labels), batch_size=50, shuffle=True)

    for epoch in range(1, args.epochs + 1):
        waited_s, losses = 0.0, []
        for inputs, targets in batches:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(
                model(inputs.to(args.device)), targets.to(args.device)
            )
            loss.backward()
            optimizer.step()
            waited_s += optimizer.wait_seconds
            losses.append(loss.item())
        print(
            f"worker {rank}, epoch {epoch}: loss {sum(losses) / len(losses):.3f}, "
            f"waited {waited_s:.2f} s, lag {optimizer.lag}, version {optimizer.version}",
            flush=True,
        )
    optimizer.close()  # 3


def spirals(points: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of two interleaved spirals, float32 of (points, 2), and which spiral each is of."""
    labels = torch.randint(2, (points,))
    turn = torch.rand(points) * 1.5
    angle = 2 * turn + torch.pi * labels
    noise = 0.05 * torch.randn(points, 2)
    return torch.stack((turn * angle.cos(), turn * angle.sin()), 1) / 1.5 + noise, labels


if __name__ == "__main__":
    main()

"""(b) The best loop we can write by hand for the article's recipe, without Lightning.

Images in memory as bytes, a batch cut out by one indexing; bfloat16 where the device has units
for it; on a CPU oneDNN's own tensors from layer to layer, on a GPU `channels_last`; the fused
optimizer; glibc told to keep freed memory, Python not to walk what is imported. Tried and left
out, slower or no gain on 2 cores: torch's own modules in `channels_last` (1.4 x the time); batch
norm, ReLU and pooling in one autograd function of our own (1.8 x); huge pages; two half batches in
two threads. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import gc
import json
import time

import torch
from torch.nn import functional

from benchmarks.plain_loop import article_network
from distcnn import onednn
from distcnn.config import RunConfig
from distcnn.data import dataset
from distcnn.training import precision
from distcnn.training.process import keep_freed_memory

BATCH_SIZE = 128


def main() -> None:
    """Train one epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    mixed = precision.decide(RunConfig(), device)[0] == "bf16-mixed"

    data = dataset.load("fashion-mnist", None, print)
    images = torch.from_numpy(data.train_images).unsqueeze(1).to(device)
    labels = torch.from_numpy(data.train_labels).long().to(device)
    on_cpu = device.type == "cpu"
    layout = torch.contiguous_format if on_cpu else torch.channels_last
    network = article_network().to(device, memory_format=layout)  # pyright: ignore
    dtype = torch.bfloat16 if mixed else torch.float32
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001, fused=True)

    gc.collect()
    gc.freeze()
    started = time.perf_counter()
    order = torch.randperm(len(labels), device=device)
    num_steps = len(labels) // BATCH_SIZE
    for ids in order[: num_steps * BATCH_SIZE].split(BATCH_SIZE):
        batch = images.index_select(0, ids).float().div_(255)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed and not on_cpu):
            scores = onednn.run(network, batch, dtype) if on_cpu else network(batch)
            loss = functional.cross_entropy(scores, labels.index_select(0, ids))
        loss.backward()
        optimizer.step()
    labels[:1].cpu()  # Waits for the device.
    images_per_second = num_steps * BATCH_SIZE / (time.perf_counter() - started)
    print(json.dumps({"images_per_second": images_per_second}))


if __name__ == "__main__":
    main()

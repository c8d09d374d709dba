"""Measuring what a claim is judged by, once a trial has trained."""

from __future__ import annotations

from distcnn.claims.claim import find
from distcnn.claims.subject import Subject, validation_images
from distcnn.config import RunConfig
from distcnn.data.dataset import Dataset
from distcnn.run_directory.run import RunDirectory
from distcnn.sweep.config import ClaimName
from distcnn.training.chosen import newest_network

_NUM_IMAGES = 2048


def examine(claim: ClaimName, config: RunConfig, run: RunDirectory, dataset: Dataset) -> None:
    """Record what the network that a trial has ended with tells of a claim."""
    images, labels = validation_images(config, dataset, _NUM_IMAGES)
    network = newest_network(run).kept_network
    subject = Subject(config, network, images, labels)
    run.write_measures(find(claim).measure(subject))

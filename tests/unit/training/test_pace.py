"""How fast a network is, for plans."""

from __future__ import annotations

from distcnn.config import RunConfig
from distcnn.training.pace import seconds_per_image


def test_each_network_has_its_pace_unless_one_does_not_fit(tiny_config: RunConfig) -> None:
    wide = tiny_config.with_values(model={"channels": [24, 32]})
    paces = seconds_per_image([tiny_config, wide])
    assert len(paces) == 2
    assert all(0 < pace < 1 for pace in paces)
    # Its first layer's output alone would take 2 TiB.
    endless = tiny_config.with_values(
        model={"channels": [300_000, 8]}, training={"global_batch_size": 2560}
    )
    assert seconds_per_image([tiny_config, endless]) == []

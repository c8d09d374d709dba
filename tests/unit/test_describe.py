from distcnn.config import ModelConfig, RunConfig
from distcnn.describe import describe

ARTICLE = """\
Layer         Hyperparameters   Input     Output    Parameters  Multiply-adds
-----------------------------------------------------------------------------
Conv 1        k=16 F=5 S=1 P=2  28x28x1   28x28x16         416        313,600
Batch norm 1                    28x28x16  28x28x16          32              0
relu 1                          28x28x16  28x28x16           0              0
Pool 1        max F=2 S=2       28x28x16  14x14x16           0              0
Conv 2        k=32 F=5 S=1 P=2  14x14x16  14x14x32      12,832      2,508,800
Batch norm 2                    14x14x32  14x14x32          64              0
relu 2                          14x14x32  14x14x32           0              0
Pool 2        max F=2 S=2       14x14x32  7x7x32             0              0
FC            1568 -> 10        7x7x32    1x1x10        15,690         15,680
-----------------------------------------------------------------------------
Total                           28x28x1   1x1x10        29,034      2,838,080

k kernels, F width of the window, S stride, P zero padding; volumes W x H x D"""


def test_the_article_s_table():
    assert describe(RunConfig()) == ARTICLE


def test_each_block_shows_its_own_values():
    model = ModelConfig(
        channels=(4, 5),
        kernel_size=(3, 5),
        padding=(1, 2),
        pooling=("l2", "distance-weighted"),
        pool_size=(4, 3),
        pool_stride=(2, 1),
        activation=("tanh", "sigmoid"),
        batch_norm=False,
    )
    lines = describe(RunConfig(model=model)).splitlines()
    assert lines[2].split()[:6] == ["Conv", "1", "k=4", "F=3", "S=1", "P=1"]
    assert lines[3].split()[0] == "tanh"
    assert lines[4].split()[2:5] == ["l2", "F=4", "S=2"]
    assert lines[6].split()[0] == "sigmoid"
    assert lines[7].split()[2:5] == ["distance-weighted", "F=3", "S=1"]

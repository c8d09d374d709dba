"""Handles: written and read again, whatever a context is called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distcnn.cluster.handle import ID, Handle, HandleError

WORDS = st.text(min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("text", "handle"),
    [
        ("local://mine", Handle("local", (), "mine")),
        ("ray://head:8265/mine", Handle("ray", ("head:8265",), "mine")),
        ("slurm://cluster/123", Handle("slurm", ("cluster",), "123")),
        ("kuberay://prod/team-a/mine", Handle("kuberay", ("prod", "team-a"), "mine")),
        (
            "kuberay://arn:aws:eks:eu-1:7:cluster%2Fa/default/mine",
            Handle("kuberay", ("arn:aws:eks:eu-1:7:cluster/a", "default"), "mine"),
        ),
    ],
)
def test_as_it_is_written(text, handle):
    assert Handle.parse(text) == handle
    assert str(handle) == text


@given(context=WORDS, namespace=WORDS, name=st.from_regex(ID, fullmatch=True))
def test_whatever_a_context_is_called_is_read_again(context, namespace, name):
    handle = Handle("kuberay", (context, namespace), name)
    assert Handle.parse(str(handle)) == handle


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mine", "is no handle; one is local://id, ray://"),
        ("s3://bucket/mine", "is no handle; one is"),
        ("ray://mine", "it is written ray://host:8265/id"),
        ("ray:///mine", "it is written ray://host:8265/id"),
        ("slurm://cluster/", "it is written slurm://cluster/123"),
        ("kuberay://context/name", "it is written kuberay://context/namespace/name"),
        ("local://a/b", "it is written local://id"),
        ("local://..%2F..%2Fetc", "it is written local://id"),
        ("slurm://cluster/-a", "it is written slurm://cluster/123"),
        ("slurm://cluster/mine", "it is written slurm://cluster/123"),
        ("kuberay://context/namespace/Mine", "it is written kuberay://"),
    ],
)
def test_what_is_none_is_told_how_one_is_written(text, told):
    with pytest.raises(HandleError, match=told):
        Handle.parse(text)

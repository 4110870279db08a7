import pytest
import torch
from helpers.golden import load_json

from ofa.errors import UserError
from ofa.generation import PrefixTree

ANSWERS = [[7, 8], [7], [9, 8, 7], [9, 8, 5], [6]]


@pytest.fixture
def tree():
    return PrefixTree(ANSWERS)


def walk(tree, tokens):
    node = torch.tensor(0)
    for token in tokens:
        node = tree.step(node, tree.columns_of(torch.tensor(token)))
    return node


def test_the_next_tokens_are_the_recorded_ones():
    recorded = load_json("fairseq_text.json")["trie"]
    tree = PrefixTree(recorded["answers"])
    compared = 0
    for query in recorded["queries"]:
        # The original's tree has a node for `<s>`; the prefixes [] and [5] do not start with it.
        if query["prefix"][:1] == [0]:
            assert tree.next_tokens(query["prefix"][1:]) == sorted(query["next"])
            compared += 1
    assert compared == len(recorded["queries"]) - 2


def test_a_mask_has_the_next_tokens_of_each_of_many_nodes(tree):
    prefixes = [[[], [7], [9]], [[9, 8], [9, 8, 5, 2], [4]]]
    nodes = torch.tensor([[int(walk(tree, prefix)) for prefix in row] for row in prefixes])
    mask = tree.mask(nodes)
    assert tree.tokens.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [[tree.tokens[m].tolist() for m in row] for row in mask] == [[[6, 7, 9], [2, 8], [8]], [[5, 7], [], [2]]]
    assert tree.mask(nodes[:0]).shape == (0, 3, 9)


def test_a_token_that_does_not_follow_leads_off_the_tree_and_nothing_leads_back(tree):
    for prefix in ([8], [7, 7], [4], [10_000], [6, 2, 2], [8, 7]):
        assert walk(tree, prefix) == tree.off
    assert tree.next_tokens([8]) == [2]


def test_equal_answers_share_their_leaf_and_every_answer_ends_in_its_own():
    tree = PrefixTree([*ANSWERS, [7]])
    assert tree.leaves[-1] == tree.leaves[1]
    for answer, leaf in zip(ANSWERS, tree.leaves, strict=False):
        assert walk(tree, [*answer, 2]) == leaf
        path = [int(node) for node in tree.paths(leaf) if node > 0]
        assert tree.tokens[tree.columns[path]].tolist() == [*answer, 2]


def test_nodes_along_a_target_are_those_before_its_tokens(tree):
    target = torch.tensor([[1, 1, 9, 8, 5, 2], [7, 2, 1, 1, 1, 1], [4, 7, 2, 1, 1, 1]])
    nodes = tree.nodes_along(target)
    assert nodes[0].tolist() == [int(walk(tree, p)) for p in ([], [], [], [9], [9, 8], [9, 8, 5])]
    assert nodes[1, :2].tolist() == [0, int(walk(tree, [7]))]
    assert nodes[2, :3].tolist() == [0, tree.off, tree.off]


def test_a_decoder_reads_only_what_precedes_a_choice(tree):
    def prefix_of(row):
        return [int(tree.columns[n]) for n in tree.paths(tree.rows[row]) if n > 0]

    def columns(*tokens):
        return tree.columns_of(torch.tensor(tokens)).tolist()

    # 7 is followed by 8 or the end, 9 8 by 7 or 5; all else is certain, and 9 is only read because 9 8 follows.
    rows = [prefix_of(row) for row in range(len(tree.rows))]
    assert rows == [columns(7), columns(9), columns(9, 8)]
    assert tree.row_levels == [0, 2, 3]
    assert tree.ancestors.tolist() == [[0, 0], [1, 0], [1, 2]]
    assert tree.tokens[tree.columns[tree.choices]].tolist() == [6, 7, 9, 2, 8, 5, 7]
    assert tree.choosers.tolist() == [0, 0, 0, 1, 1, 3, 3]
    certain = PrefixTree([[7, 8]])
    assert len(certain.rows) == len(certain.choices) == 0
    assert certain.row_levels == [0]


def test_a_copy_for_a_device_is_made_once_and_can_be_trained_with_even_if_made_in_inference_mode(tree):
    with torch.inference_mode():
        copy = tree.to(torch.device("meta"))
    assert copy.to(torch.device("meta")) is tree.to(torch.device("meta")) is copy
    assert copy.tokens.is_meta and not copy.tokens.is_inference()
    assert copy.to(torch.device("cpu")) is tree


@pytest.mark.parametrize("answers", [[], [[5], []], [[5, 2]], [[0, 5]], [[1]], [[5, 3]]])
def test_answers_without_text_are_refused(answers):
    with pytest.raises(UserError, match="prefix tree"):
        PrefixTree(answers)

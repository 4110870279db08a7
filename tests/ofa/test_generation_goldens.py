"""Beam search gives the hypotheses and scores recorded from the published implementations."""

import pytest
import torch
from helpers.golden import fairseq_batch, fairseq_model, hf_case, load_json, load_tensors

from ofa.generation import GenerationOptions, PrefixTree, generate

RENAMED = {"max_len_b": "max_len", "len_penalty": "length_penalty"}
WITHOUT_COUNTERPART = ("unk_penalty", "ignore_eos")  # options that only the original has


def options_of(recorded, source_length, tree=None):
    values = {"min_len": 1}  # the original's default
    values |= {RENAMED.get(k, k): v for k, v in recorded.items() if k != "max_len_a"}
    values["max_len"] += int(recorded.get("max_len_a", 0) * source_length)
    if "constraint_range" in values:
        values["constraint_range"] = tuple(int(i) for i in values["constraint_range"].split(","))
    if values.pop("constraint_trie", None):
        values |= {"prefix_tree": tree, "softmax_over_tree": not values.pop("zero_shot", False)}
    return GenerationOptions(**values)


def compare(found, recorded):
    for ours, theirs in zip(found, recorded, strict=True):
        assert ours.tokens == theirs["tokens"]
        assert ours.score == pytest.approx(theirs["score"], abs=1e-4)
        assert ours.token_scores == pytest.approx(theirs["positional_scores"], abs=1e-4)


@pytest.mark.parametrize("name", ["hf_small", "hf_tiny"])
def test_beam_searches_equal_the_published_ones(name):
    model, recorded, tensors = hf_case(name)
    batch = {k: tensors[f"in/{k}"] for k in ("input_ids", "patch_images", "patch_masks")}
    for case in recorded["beam"].values():
        found = generate(model, batch, options_of(case["options"], 9))
        for ours, theirs in zip(found, case["hypotheses"], strict=True):
            compare(ours, theirs)


@pytest.mark.parametrize("profile", ["brief", "strong"])
def test_the_stable_beam_searches_equal_the_original_ones(profile, monkeypatch):
    # The original may choose <s> and <unk>, which take places in the beam: the searches are compared under its rule.
    monkeypatch.setattr("ofa.generation.constraints.NEVER_CHOSEN", [1])
    models = [fairseq_model(profile, seed) for seed in (0, 1)]
    cases = load_json("fairseq_generation.json")["generation"][profile]
    recorded = {case: load_tensors("fairseq_arrays.npz", f"{profile}/{case}/in/") for case in ("main", "text")}
    inputs = {case: fairseq_batch(case, tensors) for case, tensors in recorded.items()}
    tree = PrefixTree(cases["trie_answers"])
    compared = 0
    for name, case in cases.items():
        if name in ("trie_answers", "prefix_tokens") or set(case["options"]) & set(WITHOUT_COUNTERPART):
            continue
        if name == "beam5_boxes_zero_shot":
            continue  # ours takes the softmax over the range if it allows no other id
        batch = inputs[case["input"]]
        prefix = torch.tensor(cases["prefix_tokens"]) if "prefix" in name else None
        model = models if name.startswith("ensemble") else models[0]
        options = options_of(case["options"], batch["input_ids"].shape[1], tree)
        found = generate(model, batch, options, prefix)
        for ours, theirs in zip(found, case["hypotheses"], strict=True):
            compare(ours, theirs)
            compared += 1
    assert compared == {"brief": 66, "strong": 69}[profile]

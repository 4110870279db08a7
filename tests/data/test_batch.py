import json
from pathlib import Path

import torch

from data.batch import Sample, collate

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "fairseq_data.json").read_text())


def sample(name="a", source=(0, 5, 2), target=(7, 2), image=None, notes=()):
    return Sample(name, list(source), list(target), image, truth=f"truth of {name}", notes=tuple(notes))


def test_batches_equal_the_published_ones():
    published = GOLDENS["refcoco_dataset"]
    batch = collate([sample(e["id"], e["source"], e["target"]) for e in published["examples"]])
    assert batch.ids == published["batch"]["id"]
    assert batch.input_ids.tolist() == published["batch_net_input"]["src_tokens"]
    assert batch.decoder_input_ids.tolist() == published["batch_net_input"]["prev_output_tokens"]
    assert batch.target.tolist() == published["batch"]["target"]


def test_padding_is_on_the_right_of_source_and_target():
    batch = collate([sample(source=(0, 5, 6, 2), target=(7, 2)), sample("b", source=(0, 2), target=(8, 9, 2))])
    assert batch.input_ids.tolist() == [[0, 5, 6, 2], [0, 2, 1, 1]]
    assert batch.decoder_input_ids.tolist() == [[0, 7, 1], [0, 8, 9]]
    assert batch.target.tolist() == [[7, 2, 1], [8, 9, 2]]
    assert batch.input_ids.dtype == batch.target.dtype == torch.int64
    assert batch.truths == ["truth of a", "truth of b"] and len(batch) == 2


def test_samples_without_an_image_get_zeros_and_a_false_mask():
    image = torch.ones(3, 2, 4)
    batch = collate([sample(), sample("b", image=image)])
    assert batch.patch_masks.tolist() == [False, True]
    assert torch.equal(batch.patch_images, torch.stack([torch.zeros(3, 2, 4), image]))
    without = collate([sample(), sample("b")])
    assert without.patch_images is None and without.patch_masks.tolist() == [False, False]


def test_samples_without_an_answer_have_no_decoder_input_and_no_samples_make_an_empty_batch():
    batch = collate([sample(target=())])
    assert batch.target.shape == batch.decoder_input_ids.shape == (1, 0)
    assert len(collate([])) == 0


def test_moving_a_batch_moves_its_tensors_and_keeps_the_rest():
    batch = collate([sample(image=torch.ones(3, 2, 2), notes=["cut"]), sample(notes=["cut", "clipped"])])
    assert batch.notes == ["cut", "cut", "clipped"]
    moved = batch.to("meta")
    tensors = [moved.input_ids, moved.patch_images, moved.patch_masks, moved.decoder_input_ids, moved.target]
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert (moved.ids, moved.truths, moved.notes) == (batch.ids, batch.truths, batch.notes)
    assert batch.input_ids.device.type == "cpu"


def test_a_decoder_prompt_precedes_the_answer_and_has_no_target():
    prompted = Sample("a", [0, 5, 2], [7, 2], None, truth=None, prefix=[5, 6], weight=0.5)
    batch = collate([prompted, sample("b", target=(8, 9, 2))])
    assert batch.decoder_input_ids.tolist() == [[0, 5, 6, 7], [0, 8, 9, 1]]
    assert batch.target.tolist() == [[1, 1, 7, 2], [8, 9, 2, 1]]
    assert batch.prefix_tokens.tolist() == [[5, 6], [1, 1]]
    assert batch.weights.tolist() == [0.5, 1.0]
    assert collate([sample()]).prefix_tokens is None


def test_other_answers_follow_the_same_prompts():
    prompted = Sample("a", [0, 5, 2], [7, 2], None, truth=None, prefix=[5, 6])
    samples = [prompted, sample("b", target=(8, 9, 2))]
    batch = collate(samples)
    assert batch.prefixes == [[5, 6], []] and collate([sample()]).prefixes == [[]]
    other = batch.with_targets([[9, 8, 7, 2], [2]])
    assert other.decoder_input_ids.tolist() == [[0, 5, 6, 9, 8, 7], [0, 1, 1, 1, 1, 1]]
    assert other.target.tolist() == [[1, 1, 9, 8, 7, 2], [2, 1, 1, 1, 1, 1]]
    assert other.input_ids is batch.input_ids and other.ids == batch.ids
    same = batch.with_targets([s.target for s in samples])
    assert torch.equal(same.target, batch.target) and torch.equal(same.decoder_input_ids, batch.decoder_input_ids)


def test_a_batch_taken_twice_has_each_sample_in_both_halves():
    batch = collate([sample("a", notes=["cut"]), sample("b", source=(0, 6, 7, 2))]).twice()
    assert batch.ids == ["a", "b", "a", "b"] and len(batch.truths) == len(batch.weights) == 4
    assert torch.equal(batch.input_ids[:2], batch.input_ids[2:]) and torch.equal(batch.target[:2], batch.target[2:])
    assert batch.notes == ["cut"]

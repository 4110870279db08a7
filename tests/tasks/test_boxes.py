import pytest
import torch
from helpers.golden import load_json

from ofa.images import bins_to_boxes, box_iou, boxes_to_bins
from tasks.metrics.accuracy import BoxAccuracy

RECORDED = load_json("fairseq_data.json")


@pytest.mark.parametrize(
    ("case", "image_size", "max_image_size"),
    [("p64_max512", 64, 512), ("p64_max64", 64, 64), ("p96_imagenet_max96", 96, 96)],
)
def test_recorded_boxes_get_the_published_bins(case, image_size, max_image_size):
    for image, recorded in zip(RECORDED["images"], RECORDED["refcoco_transform"][case], strict=True):
        height, width = image["size_hw"]
        ratio = (image_size / width, image_size / height)
        assert boxes_to_bins(torch.tensor([image["box"]]), ratio, max_image_size).tolist() == recorded["bins"]


def test_recorded_bins_decode_to_the_published_boxes_and_scores():
    recorded = RECORDED["eval_refcoco"]
    metric = BoxAccuracy()
    ratios = zip(recorded["w_resize_ratios"], recorded["h_resize_ratios"], strict=True)
    for result, true, ratio in zip(recorded["results"], recorded["region_coords"], ratios, strict=True):
        # All hypotheses of the recording are four times <bin_628>.
        box = bins_to_boxes(torch.tensor([628] * 4), ratio, recorded["max_image_size"])
        torch.testing.assert_close(box, torch.tensor(result["box"]), rtol=0, atol=1e-4)
        metric.update(box[None], torch.tensor([true]))
    assert metric.compute()["acc@0.5"] == sum(recorded["scores"])


def test_boxes_survive_the_way_to_bins_and_back_within_half_a_bin():
    boxes = torch.tensor([[0.0, 0.0, 640.0, 480.0], [3.2, 100.7, 64.9, 333.3]])
    ratio = (512 / 640, 512 / 480)
    back = bins_to_boxes(boxes_to_bins(boxes, ratio, 512), ratio, 512)
    half_a_bin = 0.5 / 999 * torch.tensor([640, 480, 640, 480]) + 1e-4
    assert ((back - boxes).abs() <= half_a_bin).all()
    assert boxes_to_bins(boxes, ratio, 512)[0].tolist() == [0, 0, 999, 999]


def test_iou_is_taken_row_by_row_without_the_extra_pixel():
    first = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 2, 2]])
    second = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 10, 20, 20], [1, 1, 3, 3]])
    torch.testing.assert_close(box_iou(first, second), torch.tensor([1.0, 1 / 3, 0.0, 1 / 7]))


def test_a_box_with_swapped_corners_or_without_area_overlaps_nothing():
    first = torch.tensor([[8.0, 8, 2, 2], [8, 2, 2, 8], [5, 5, 5, 5]])
    second = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 5, 5]])
    assert not box_iou(first, second).any()


def test_accuracy_counts_every_sample_once_however_it_was_batched():
    predicted = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4.9], [50, 50, 60, 60]])
    true = torch.tensor([[0.0, 0, 10, 10]]).expand(4, 4)
    together, apart = BoxAccuracy(), BoxAccuracy()
    together.update(predicted, true)
    for row in range(4):
        apart.update(predicted[row : row + 1], true[row : row + 1])
    expected = pytest.approx({"acc@0.5": 0.5, "mean_iou": (1 + 0.5 + 0.49) / 4})
    assert together.compute() == expected and apart.compute() == expected

"""Which ground truth an anchor or proposal belongs to, by thresholds on the overlap."""

import torch
from torch import Tensor


class Matcher:
    """Give each prediction its best ground truth and a label by how good the match is."""

    def __init__(self, thresholds: list[float], labels: list[int], allow_low_quality_matches: bool = False):
        thresholds = list(thresholds)
        if not thresholds or thresholds[0] <= 0 or sorted(thresholds) != thresholds:
            raise AssertionError(f"Matcher thresholds must be positive and ascending: {thresholds}")
        if len(labels) != len(thresholds) + 1 or not set(labels) <= {-1, 0, 1}:
            raise AssertionError(f"{len(thresholds)} thresholds need one label of -1, 0, 1 more: {labels}")
        self.thresholds = [-float("inf"), *thresholds, float("inf")]
        self.labels = labels
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Match.

        Args:
            match_quality_matrix: (ground truths, predictions), values >= 0.

        Returns:
            (predictions,) int64 index of the best ground truth (0 if there is none), and (predictions,) int8 labels.
        """
        number = match_quality_matrix.shape[1]
        if match_quality_matrix.numel() == 0:
            matches = torch.zeros(number, dtype=torch.int64, device=match_quality_matrix.device)
            return matches, torch.full_like(matches, self.labels[0], dtype=torch.int8)
        best, matches = match_quality_matrix.max(dim=0)
        bands = torch.bucketize(best, best.new_tensor(self.thresholds[1:-1]), right=True)
        match_labels = torch.tensor(self.labels, dtype=torch.int8, device=best.device)[bands]
        if self.allow_low_quality_matches:
            self.set_low_quality_matches_(match_labels, match_quality_matrix)
        return matches, match_labels

    def set_low_quality_matches_(self, match_labels: Tensor, match_quality_matrix: Tensor) -> None:
        """Label 1, in place, every prediction that ties for the best quality of some ground truth.

        Their matches stay: a prediction keeps the ground truth that is best for itself (Ren et al. 2015, 3.1.2 (i)).
        """
        best_of_truth = match_quality_matrix.max(dim=1, keepdim=True).values
        match_labels[(match_quality_matrix == best_of_truth).any(dim=0)] = 1

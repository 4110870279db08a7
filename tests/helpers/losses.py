"""The loss of decoder states, as a training step computes it."""

from criterions.base import AllowedIds


def loss_of_states(criterion, model, hidden, target, step=1, weights=None, tree=None, constraint_range=None):
    """The Loss of decoder states [B, T, D] over the allowed ids."""
    targets = AllowedIds(model.config.vocab_size, constraint_range, tree).targets(target)
    return criterion(model.logits(hidden[targets.valid], targets.ids), targets, step, weights)
